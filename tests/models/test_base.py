"""Saving and loading in a folder: what fits comes back the same, what does not is an error that names it."""

import json
import os
import pickle
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

import cbsae_hub
from cbsae_hub import SAE
from cbsae_hub.cards.write import write_card
from cbsae_hub.hub import files
from cbsae_hub.hub.stamp import edited_by_hand
from cbsae_hub.models.base import ConfigError, HubModel, ModelFileError, folder_revision, resolve_id

PROVENANCE = {
    "encoder_id": "me/encoder",
    "encoder_revision": "abc123",
    "layer": 4,
    "tokens": "patches",
    "preprocessing": {"size": 64, "mean": [0.5, 0.5, 0.5]},
    "training_data": "me/photos",
    "seed": 7,
}


@pytest.fixture
def folder(make_sae, tmp_path):
    folder = tmp_path / "model"
    make_sae("matryoshka", **PROVENANCE).save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "removed"}))


def test_round_trip(sae, x, tmp_path, capsys):
    sae.fold_input_scale(3.0)
    sae.save_pretrained(tmp_path)
    loaded = SAE.from_pretrained(tmp_path)
    assert torch.equal(loaded(x).reconstruction, sae(x).reconstruction)
    assert loaded.state_dict().keys() == sae.state_dict().keys()
    assert all(torch.equal(value, sae.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded.config == sae.config
    assert loaded.group_sizes == sae.group_sizes
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in sae.named_parameters()]
    assert (loaded.repo_id, loaded.revision) == (str(tmp_path), folder_revision(tmp_path))
    captured = capsys.readouterr()
    assert captured.out == ""


def test_the_config_says_what_the_numbers_are(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config.items() >= PROVENANCE.items()
    assert config["model_class"] == "SAE"
    assert config["schema_version"] == 1
    assert config["package_version"] == cbsae_hub.__version__
    assert config["group_sizes"] == [4, 12, 32]
    assert SAE.from_pretrained(folder).config == config


def test_config_is_a_copy(make_sae):
    sae = make_sae("matryoshka", **PROVENANCE)
    sae.config["preprocessing"]["size"] = 1
    assert sae.config["preprocessing"]["size"] == 64


def test_the_dtype_is_kept(make_sae, tmp_path, x):
    sae = make_sae("batch_topk").half()
    sae.save_pretrained(tmp_path)
    loaded = SAE.from_pretrained(tmp_path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float16}
    assert torch.equal(loaded.encode(x), sae.encode(x))


def test_a_device_that_there_is_not_is_no_damaged_file(folder):
    with pytest.raises(RuntimeError, match="abacus"):
        SAE.from_pretrained(folder, device="abacus")


def test_a_loaded_model_is_independent_of_its_file(folder):
    loaded = SAE.from_pretrained(folder)
    with torch.no_grad():
        loaded.W_dec.zero_()
    assert SAE.from_pretrained(folder).W_dec.abs().sum() > 0


def test_tensors_that_share_storage_are_all_written(make_sae, tmp_path):
    sae = make_sae("relu")
    sae.W_enc = nn.Parameter(sae.W_dec.data.T)
    sae.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["W_enc"], tensors["W_dec"].T)


# ------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kk": 3}, r"unknown keys \['kk'\]; SAE knows d_in, d_sae"),
        ({"d_sae": "removed"}, "lacks d_sae"),
        ({"d_in": "12"}, "d_in must be an integer"),
        ({"d_in": None}, "d_in must be an integer"),
        ({"k": 5.0}, "k must be an integer"),
        ({"k": True}, "k must be an integer"),
        ({"d_sae": 10**12}, "d_sae must be between"),
        ({"d_in": 2**16, "d_sae": 2**17, "group_sizes": None}, "exceeds the limit"),
        ({"activation": "os.system"}, "activation must be one of"),
        ({"group_sizes": [1, 2]}, "must sum to 48"),
        ({"group_sizes": [{}] * 5}, "group_sizes must be an integer"),
        ({"group_sizes": [1] * 5000}, "group_sizes must be a list"),
        ({"layer": "x" * 10_000}, "layer must be an integer"),
        ({"encoder_id": ["a"]}, "encoder_id must be a text"),
        ({"preprocessing": {"a": "x" * 50_000}}, "the limit is"),
        ({"schema_version": 2}, "schema version 2.*knows up to 1: pip install -U"),
        ({"schema_version": 0}, "schema version 0; the oldest known is 1"),
        ({"schema_version": "1"}, "no schema_version"),
        ({"schema_version": "removed"}, "no schema_version"),
        ({"model_class": "CBSAE"}, "describes a 'CBSAE', not a SAE"),
        ({"model_class": "removed"}, "describes a None"),
    ],
)
def test_bad_configs_are_named(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        SAE.from_pretrained(folder)
    assert str(folder / "config.json") in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"k": NaN}',
        b'{"k": 1, "k": 2}',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a": ' * 100_000,
        b" " * 2**21,
    ],
)
def test_malformed_configs(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ConfigError):
        SAE.from_pretrained(folder)


def test_a_config_that_lies_about_sizes_costs_no_memory(folder, monkeypatch):
    """Sizes are compared with the weight file before anything of those sizes exists."""
    edit_config(folder, d_in=2**12, d_sae=2**20, group_sizes=None)
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *a, **k: pytest.fail("must not get here"))
    with pytest.raises(ModelFileError, match=r"W_dec has shape \[48, 12\], the config says \[1048576, 4096\]"):
        SAE.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("b_enc"), "b_enc is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not part of the model"),
        (lambda t: t.update(b_enc=torch.zeros(47)), r"b_enc has shape \[47\], the config says \[48\]"),
        (lambda t: t.update(threshold=torch.zeros(48)), "threshold has shape"),
        (lambda t: t.update(b_dec=torch.zeros(12, dtype=torch.int32)), "b_dec is of type I32"),
        (lambda t: t["W_enc"].fill_(float("nan")), "W_enc holds NaN or infinite"),
        (lambda t: t["b_dec"][3:4].fill_(float("-inf")), "b_dec holds NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelFileError, match=message):
        SAE.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match="damaged or half-written"):
        SAE.from_pretrained(folder)


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_never_read(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ModelFileError, match="no model.safetensors. pytorch_model.bin is a pickle"):
        SAE.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ModelFileError, match="damaged"):
        SAE.from_pretrained(folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=f"has no {name}. Was its saving interrupted"):
        SAE.from_pretrained(folder)


def test_a_local_revision_is_checked(folder):
    SAE.from_pretrained(folder, revision=folder_revision(folder))
    with pytest.raises(ModelFileError, match="is at revision sha256:.*, not at 'main'"):
        SAE.from_pretrained(folder, revision="main")


def test_settings_cannot_be_overridden_on_loading(folder):
    with pytest.raises(TypeError, match="d_in"):
        SAE.from_pretrained(folder, d_in=3)


# -------------------------------------------------------------------------------------------------- saving


def test_diverged_weights_are_not_saved(make_sae, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sae = make_sae("matryoshka")
    with torch.no_grad():
        sae.W_enc[0, 0] = float("nan")
    with pytest.raises(ModelFileError, match="W_enc holds NaN"):
        sae.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_failure_while_writing_leaves_the_old_model(make_sae, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        make_sae("relu").save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_at_no_moment_do_old_and_new_files_load_together(make_sae, folder, tmp_path, monkeypatch):
    """A copy of the folder at each rename is what a kill at that moment leaves behind."""
    old, new = SAE.from_pretrained(folder), make_sae("matryoshka", seed=9)
    with torch.no_grad():
        new.b_dec.add_(1.0)
    moments = []
    replace = os.replace

    def snapshot(source, target):
        for when in ("before", "after"):
            moments.append(tmp_path / f"{len(moments)}-{when}")
            shutil.copytree(folder, moments[-1])
            if when == "before":
                replace(source, target)

    monkeypatch.setattr(files.os, "replace", snapshot)
    new.save_pretrained(folder)
    loaded = []
    for moment in moments:
        try:
            sae = SAE.from_pretrained(moment)
        except ModelFileError:
            continue
        expected = new if sae.seed == 9 else old
        assert torch.equal(sae.b_dec, expected.b_dec)
        loaded.append(sae.seed)
    assert loaded[-1] == 9
    assert not list(folder.glob(".*"))


def test_files_have_the_usual_permissions(folder):
    (folder / "plain").write_text("")
    mode = (folder / "plain").stat().st_mode
    assert {path.stat().st_mode for path in folder.iterdir()} == {mode}


def test_card_of_each_model_is_its_own(make_sae, folder, tmp_path):
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "me/encoder"
    assert card.data.datasets == ["me/photos"]
    assert card.data.library_name == "cbsae_hub"
    assert card.data.pipeline_tag == "feature-extraction"
    assert {"sparse-autoencoder", "interpretability", "matryoshka", "batch_topk"} <= set(card.data.tags)
    assert "SAE.from_pretrained('model')" in card.text
    assert "More Information Needed" not in card.text
    other = make_sae("relu").generate_model_card(repo_id="me/other")
    assert other.data.base_model is None
    assert "matryoshka" not in other.data.tags
    assert "SAE.from_pretrained('me/other')" in other.text
    assert ModelCard(str(other)).data.to_dict() == other.data.to_dict()


def test_a_card_has_the_tables_of_an_evaluation_of_these_weights(make_sae, folder, caplog):
    rows = [{"model": "SAE | <b>", "CD": 3.14159, "neurons": 12, "k": None}, {"model": "CB-SAE", "CD": 4.0}]
    told = {"revision": folder_revision(folder), "tables": {"SAE and CB-SAE": rows, "variants": rows, "parts": []}}
    (folder / "evaluation.json").write_text(json.dumps(told))
    write_card(folder)
    card = (folder / "README.md").read_text()
    table = "|  | SAE \\| &lt;b&gt; | CB-SAE |\n|---|---|---|\n"
    table += "| CD | 3.142 | 4.000 |\n| neurons | 12 |  |\n| k |  |  |\n"
    assert f"\n### SAE and CB-SAE\n\n{table}\n" in card and "variants" not in card and "## parts" not in card
    make_sae("matryoshka", **PROVENANCE | {"seed": 5}).save_pretrained(folder)
    assert "### SAE and CB-SAE" not in (folder / "README.md").read_text()
    assert "is of other weights" in caplog.text
    (folder / "evaluation.json").write_text("[]")
    with pytest.raises(ValueError, match=r"evaluation.json must hold a JSON object"):
        write_card(folder)


def test_a_card_written_by_hand_is_kept_and_a_generated_one_renewed(make_sae, folder):
    card = folder / "README.md"
    assert not edited_by_hand(card.read_text())
    make_sae("matryoshka", **PROVENANCE | {"layer": 3}).save_pretrained(folder)
    assert "| layer | `3` |" in card.read_text()
    card.write_text(card.read_text().replace("layer 3", "the third layer"))
    edited = card.read_text()
    make_sae("matryoshka", **PROVENANCE).save_pretrained(folder)
    assert card.read_text() == edited
    card.write_text("mine\n")
    make_sae("matryoshka", **PROVENANCE).save_pretrained(folder)
    assert card.read_text() == "mine\n"


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ 7 * 7 }}{% for x in [].__class__.__mro__ %}{% endfor %}",
        "a\n---\nlicense: mit\n---\n# Owned",
        "<script>alert(1)</script>",
        "`| x |\n| y | `",
        "[click](javascript:alert(1)) ![](http://tracker)",
        "x\u2028y\u0000\x1b[31m",
    ],
)
def test_text_from_a_config_stays_text_in_the_card(make_sae, hostile):
    settings = dict.fromkeys(("encoder_id", "encoder_revision", "tokens", "training_data"), hostile)
    clean = make_sae("relu", **dict.fromkeys(settings, "plain")).generate_model_card(repo_id="me/x")
    card = make_sae("relu", **settings).generate_model_card(repo_id="me/x\n```\n" + hostile)
    assert card.data.to_dict() == clean.data.to_dict()
    assert len(card.content.split("\n")) == len(clean.content.split("\n"))
    assert ("{{ 7 * 7 }}" in card.text) == ("{{ 7 * 7 }}" in hostile)
    outside_code = "".join(card.text.split("`")[::2])
    assert "<script" not in outside_code
    assert "](" not in outside_code.replace("\\](", "").replace("\\]", "")
    assert card.text.count("\n| ") == clean.text.count("\n| ")


# -------------------------------------------------------------------------------- other classes, other ids


class Bias(HubModel, tags=["bias"]):
    def __init__(self, width: int, name: str = "none"):
        super().__init__()
        self.width, self.name = width, name
        self.bias = nn.Parameter(torch.zeros(width))


def test_another_class_gets_all_of_it(tmp_path, folder):
    model = Bias(3, name="three")
    nn.init.ones_(model.bias)
    model.save_pretrained(tmp_path / "bias")
    loaded = Bias.from_pretrained(tmp_path / "bias")
    assert torch.equal(loaded.bias, torch.ones(3))
    assert loaded.config == model.config
    data = ModelCard.load(tmp_path / "bias" / "README.md").data
    assert data.library_name == "cbsae_hub" and "sparse-autoencoder" not in data.tags
    with pytest.raises(ConfigError, match="describes a 'SAE', not a Bias"):
        Bias.from_pretrained(folder)


def test_resolve_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hub/sae", "hub/clip", "here"):
        os.makedirs(name)
    assert resolve_id("here") == "here"
    assert resolve_id("org/clip") == "org/clip"
    assert resolve_id("org/clip", beside="hub/sae") == str(tmp_path / "hub" / "clip")
    assert resolve_id("clip", beside="hub/sae") == str(tmp_path / "hub" / "clip")
    assert resolve_id("org/dino", beside="hub/sae") == "org/dino"
    assert resolve_id("org/clip", beside="org/sae") == "org/clip"
    assert resolve_id("org/..", beside="hub/sae") == "org/.."
    assert resolve_id("here", beside="hub/sae") == "here"


def test_folder_revision(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"abc")
    assert folder_revision(tmp_path) == "sha256:ba7816bf8f01cfea"  # FIPS 180 test vector
    (tmp_path / "patch_maps.safetensors").write_bytes(b"a pack beside it")
    (tmp_path / "config.json").write_text("{}")
    assert folder_revision(tmp_path) == "sha256:ba7816bf8f01cfea"
    weights.write_bytes(b"abd")
    assert folder_revision(tmp_path) != "sha256:ba7816bf8f01cfea"
    weights.unlink()
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"ab")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"c")
    assert folder_revision(tmp_path) == "sha256:ba7816bf8f01cfea"
    with pytest.raises(ModelFileError, match="no \\*.safetensors"):
        folder_revision(tmp_path / "nowhere")
