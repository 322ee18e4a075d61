"""Imported SAEs against files that are written, and formulas that are computed, independently of the package."""

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign_files import (
    EVERY,
    Weights,
    dl_autoencoder,
    dl_backup,
    dl_batch_topk,
    dl_batch_topk_unset,
    prisma,
    saelens,
    saelens_5_scaled,
    saev,
    sparsify,
)
from safetensors.torch import load_file

import cbsae_hub
from cbsae_hub import CBSAE, SAE
from cbsae_hub.formats.convert import detect, export_saelens, import_sae
from cbsae_hub.models import ConfigError, ModelFileError

IDS = [write.__name__ for _, write in EVERY]


@pytest.fixture(params=EVERY, ids=IDS)
def case(request, tmp_path):
    name, write = request.param
    return name, write(tmp_path / "theirs", Weights())


@torch.no_grad()
def test_the_same_forward_result(case):
    name, golden = case
    assert detect(golden.path) == name
    sae = import_sae(golden.path)
    assert not sae.training and sae.imported_from["format"] == name
    out = sae(golden.x)
    np.testing.assert_allclose(sae.encode(golden.x), golden.latents, atol=1e-5)
    np.testing.assert_allclose(out.latents, golden.latents, atol=1e-5)
    np.testing.assert_allclose(out.reconstruction, golden.reconstruction, atol=1e-5)
    assert 0.02 < (golden.latents > 0).mean() < 0.8
    sparse = sae.encode_sparse(golden.x)
    np.testing.assert_allclose(sparse.to_dense(sae.d_sae), golden.latents, atol=1e-5)
    np.testing.assert_allclose(sae.decode_sparse(*sparse, like=golden.x), golden.reconstruction, atol=1e-5)
    np.testing.assert_allclose(sae.decode(out.latents, like=golden.x), golden.reconstruction, atol=1e-5)


def test_saved_as_ours_it_is_the_same_and_remembers(case, tmp_path):
    _, golden = case
    sae = import_sae(golden.path)
    sae.save_pretrained(tmp_path / "ours")
    again = cbsae_hub.load(tmp_path / "ours")
    assert again.config == sae.config
    assert torch.equal(again(golden.x).reconstruction, sae(golden.x).reconstruction)
    assert again.imported_from["source"] == "theirs", "no paths of this machine"
    assert again.imported_from["revision"].startswith("sha256:") and again.imported_from["config"]
    assert str(golden.path.parent) not in (tmp_path / "ours" / "config.json").read_text()
    assert f"Somebody else trained it: `theirs` at `{sae.revision}`" in (tmp_path / "ours" / "README.md").read_text()


def test_load_reads_them_all_and_says_so(case, caplog):
    name, golden = case
    with caplog.at_level(logging.INFO, "cbsae_hub"):
        sae = cbsae_hub.load(str(golden.path), encoder_id="you/other", layer=7, tokens="mean")
    assert (sae.encoder_id, sae.layer, sae.tokens) == ("you/other", 7, "mean")
    assert f"theirs: an SAE of {name}, 48 neurons" in caplog.text
    for note in sae.imported_from["notes"]:
        assert note in caplog.text
    contradicted = [note.split()[0] for note in sae.imported_from["notes"] if "as was said, though" in note]
    plain = import_sae(golden.path)
    assert contradicted == [part for part in ("encoder_id", "layer", "tokens") if getattr(plain, part) is not None]


def test_weights_are_copies_of_their_own(case):
    _, golden = case
    sae = import_sae(golden.path)
    files = [path for path in golden.path.rglob("*") if path.is_file()]
    for file in files:  # as if they were memory-mapped, and somebody changed them
        file.write_bytes(b"\0" * file.stat().st_size)
    np.testing.assert_allclose(sae.encode(golden.x).detach(), golden.latents, atol=1e-5)
    pointers = [tensor.data_ptr() for tensor in sae.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in sae.state_dict().values())


def test_pruning_and_bottlenecks_work_on_them(case):
    _, golden = case
    sae = import_sae(golden.path)
    keep = list(range(0, 48, 2))
    cb = CBSAE.from_sae(sae, keep, ["one", "two"], 1, seed=0)
    assert (cb.input_norm, cb.imported_from) == (sae.input_norm, sae.imported_from)
    if sae.activation not in ("topk", "batch_topk"):  # where discarded neurons take no places
        np.testing.assert_allclose(cb.encode(golden.x)[:, :24].detach(), golden.latents[:, keep], atol=1e-5)
    out = cb(golden.x)
    z, c = out.latents.split([24, 2], -1)
    tokens = sae.normalized(golden.x)
    torch.testing.assert_close(c, (tokens - sae.b_dec) @ cb.W_enc_cb)
    inside = z @ sae.W_dec[keep] + sae.b_dec + cb.select_concepts(c) @ cb.W_dec_cb
    scale, shift = 1.0, 0.0
    if sae.input_norm == "layer_norm":
        scale, shift = golden.x.std(-1, keepdim=True), golden.x.mean(-1, keepdim=True)
    elif sae.input_norm == "constant_norm":
        scale = golden.x.norm(dim=-1, keepdim=True) / 12**0.5
    torch.testing.assert_close(out.reconstruction, inside * scale + shift, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        sparse = cb.encode_sparse(golden.x)
        torch.testing.assert_close(cb.decode_sparse(*sparse, like=golden.x), out.reconstruction)


def test_an_unset_threshold_is_noticed_and_stays_unset(tmp_path, caplog):
    golden = dl_batch_topk_unset(tmp_path, Weights())
    sae = import_sae(golden.path)
    assert not sae.threshold_is_set and sae.threshold.item() == -1
    assert any(note.startswith("threshold unset") for note in sae.imported_from["notes"])
    assert "threshold unset" in caplog.text and caplog.records[0].levelno == logging.WARNING
    sae.calibrate_threshold(golden.x)
    assert (sae.encode(golden.x) > 0).sum(-1).float().mean() == 5
    with pytest.raises(ValueError, match="calibrate_threshold"):
        export_saelens(import_sae(golden.path), tmp_path / "out")


def test_a_backup_is_rescaled(tmp_path):
    sae = import_sae(dl_backup(tmp_path, Weights(), 3.0).path)
    assert sae.norm_factor == 3.0
    assert any("divided by 3" in note for note in sae.imported_from["notes"])
    assert import_sae(dl_backup(tmp_path / "1", Weights(), 1.0).path).norm_factor == 1.0


@pytest.mark.parametrize("factor", [float("nan"), -1.0, 0.0, True, "one"])
def test_a_backup_of_an_impossible_scale(tmp_path, factor):
    golden = dl_backup(tmp_path, Weights())
    file = golden.path / "trainer_0" / "ae.pt"
    torch.save(torch.load(file) | {"norm_factor": factor}, file)
    with pytest.raises(ConfigError, match="norm_factor"):
        import_sae(golden.path)


def test_saev_with_a_threshold_that_was_never_trained(tmp_path):
    header = {"schema": 5, "cfg": {"activation": {"cls": "BatchTopK", "params": {"top_k": 5}}}}
    saev(tmp_path, Weights(), header, {"activation.threshold": torch.tensor(0.0)})
    assert not import_sae(tmp_path).threshold_is_set


def test_a_scale_that_saelens_keeps_beside_a_checkpoint(tmp_path):
    w, factor = Weights(), 0.25
    saelens(tmp_path, w, norm="expected_average_only_in")
    plain = import_sae(tmp_path)
    assert any("expected_average_only_in" in note for note in plain.imported_from["notes"])
    np.testing.assert_allclose(plain.b_dec.detach(), w.b_dec)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    sae = import_sae(tmp_path)
    latents = torch.relu((w.x * factor - w.b_dec) @ w.enc + w.b_enc)
    torch.testing.assert_close(sae.encode(w.x), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae(w.x).reconstruction, (latents @ w.dec + w.b_dec) / factor, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision(tmp_path, dtype):
    w = Weights()
    for name in ("enc", "dec", "b_dec", "b_enc"):
        setattr(w, name, getattr(w, name).to(dtype))
    saelens(tmp_path, w, apply_b_dec_to_input=False)
    sae = import_sae(tmp_path)
    assert sae.W_enc.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = torch.relu(w.x.double() @ w.enc.double() + w.b_enc.double())
    torch.testing.assert_close(sae.encode(w.x).double(), expected, atol=1e-5, rtol=1e-5)
    assert any(str(dtype) in note for note in sae.imported_from["notes"]) == (dtype != torch.float64)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "transcoder"}, "transcoder.*supported are standard, topk, jumprelu"),
        ({"architecture": "skip_transcoder"}, "skip_transcoder.*not supported"),
        ({"reshape_activations": "hook_z"}, "attention heads"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening.*supported are none, layer_norm"),
        ({"finetuning_scaling_factor": True}, "scaling factor"),
        ({"architecture": "topk"}, "k must be a whole number"),
        ({"architecture": "topk", "k": "many"}, "k must be a whole number"),
        ({"architecture": "topk", "activation_fn_kwargs": {"k": 0}, "activation_fn": "topk"}, "k must be a whole"),
        ({"activation_fn": "tanh-relu"}, "tanh-relu.*supported are relu, topk"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu.*supported are relu, topk"),
        ({"activation_fn": "relu", "activation_fn_str": "tanh-relu"}, "two activation functions: relu, tanh-relu"),
        ({"architecture": "gated", "activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"uses_scaling_factor": True}, "scaling factor"),
        ({"signed_latents": True}, "cfg.json has settings that are not known.*signed_latents = True"),
        ({"input_whitening": "zca"}, "input_whitening = 'zca'"),
    ],
)
def test_what_saelens_has_and_we_have_not(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        import_sae(saelens(tmp_path, Weights(), **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_transcoder": True}, "transcoder"),
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu.*supported are standard"),
        ({"architecture": "jumprelu"}, "jumprelu"),
        ({"normalize_activations": "batch_norm"}, "batch_norm.*supported are layer_norm"),
        ({"center_activations": True}, "config.json has settings that are not known.*center_activations"),
    ],
)
def test_what_prisma_has_and_we_have_not(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        import_sae(prisma(tmp_path, Weights(), **change))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"schema": 9, "cfg": {}}, "schema 9; those up to 5"),
        ({"schema": 5, "cfg": {"activation": {"cls": "JumpRelu", "params": {}}}}, "JumpRelu.*supported are Relu"),
        ({"schema": 5, "cfg": {"activation": {"cls": "TopK", "params": {}}}}, "top_k must be"),
        ({"schema": 5, "cfg": {}}, "does not name its activation"),
        ({"schema": 5, "cfg": {"normalize_x": True}}, "settings that are not known.*normalize_x"),
    ],
)
def test_what_saev_has_and_we_have_not(tmp_path, header, message):
    with pytest.raises(ConfigError, match=message):
        import_sae(saev(tmp_path, Weights(), header))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signed": True}, "cfg.json has settings that are not known.*signed = True"),
        ({"activation": "groupmax"}, "groupmax.*supported are plain SAEs"),
        ({"skip_connection": True}, "transcoder"),
    ],
)
def test_what_sparsify_has_and_we_have_not(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        import_sae(sparsify(tmp_path, Weights(), **change).path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dict_class": "CrossCoder"}, "CrossCoder.*supported are AutoEncoder, AutoEncoderNew"),
        ({"dict_class": "IdentityDict"}, "IdentityDict.*not supported"),
        (
            {"dict_class": "GatedAutoEncoder"},
            "weights of .*BatchTopKSAE.*says that it is of Gated",
        ),
        ({"center_input": True}, "trainer of .*config.json has settings that are not known.*center_input"),
    ],
)
def test_what_dictionary_learning_has_and_we_have_not(tmp_path, change, message):
    golden = dl_batch_topk(tmp_path, Weights())
    file = tmp_path / "trainer_0" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"trainer": config["trainer"] | change}))
    with pytest.raises(ConfigError, match=message):
        import_sae(golden.path)


def test_settings_of_a_training_do_no_harm(tmp_path):
    """Switched off, of the training only, or of names that say nothing of what is computed."""
    more = {"signed": False, "whitening": "none", "noise_scale": 0.1, "wandb_project": "x", "l1_coefficient": 2.0}
    golden = sparsify(tmp_path / "sparsify", Weights(), signed=False, multi_topk=True, tied=None)
    np.testing.assert_allclose(import_sae(golden.path).encode(golden.x).detach(), golden.latents, atol=1e-5)
    import_sae(saelens(tmp_path / "saelens", Weights(), **more))


def test_unit_rows_are_left_as_they_are(tmp_path):
    w = Weights()
    w.dec = torch.nn.functional.normalize(w.dec, dim=-1)
    sae = import_sae(dl_autoencoder(tmp_path, w).path)
    assert torch.equal(sae.W_dec, w.dec) and not any("made unit" in note for note in sae.imported_from["notes"])


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_store_of_an_impossible_scale(tmp_path, factor):
    with pytest.raises(ConfigError, match="scale of activations"):
        import_sae(saelens_5_scaled(tmp_path, Weights(), factor).path)


# ----------------------------------------------------------------------------------------------- export to SAELens


def test_exported_files_are_what_saelens_reads(sae, x, tmp_path):
    """The formulas of SAELens' documentation, from the files alone."""
    sae.provenance = replace(sae.provenance, encoder_id="openai/clip-vit-base-patch32", layer=9)
    assert export_saelens(sae, tmp_path / "out") == tmp_path / "out"
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    p = {name: tensor.double() for name, tensor in load_file(tmp_path / "out" / "sae_weights.safetensors").items()}
    assert config["metadata"]["sae_lens_version"] >= "6" and config["apply_b_dec_to_input"]
    assert config["metadata"]["hook_name"] == "blocks.9.hook_resid_post"
    product = (x.double() - p["b_dec"]) @ p["W_enc"]
    if config["architecture"] == "gated":
        latents = (product + p["b_gate"] > 0) * torch.relu(product * p["r_mag"].exp() + p["b_mag"])
    else:
        latents = torch.relu(product + p["b_enc"])
        if config["architecture"] == "jumprelu":
            assert p["threshold"].shape == (sae.d_sae,)
            latents = latents * (product + p["b_enc"] > p["threshold"])
        elif config["architecture"] == "topk":
            latents = latents * (latents >= latents.topk(config["k"]).values[:, -1:])
    torch.testing.assert_close(sae.encode(x).double(), latents, atol=1e-5, rtol=1e-5)
    again = cbsae_hub.load(tmp_path / "out")
    assert torch.equal(again.encode(x), sae.encode(x))
    assert (again.encoder_id, again.layer) == (sae.encoder_id, 9)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm"])
def test_export_keeps_the_normalisation(make_sae, x, tmp_path, norm):
    sae = make_sae("topk", input_norm=norm, tokens="cls")
    again = cbsae_hub.load(export_saelens(sae, tmp_path))
    assert (again.input_norm, again.tokens) == (norm, "cls")
    assert torch.equal(again(x).reconstruction, sae(x).reconstruction)


def test_a_bottleneck_is_not_exported_but_its_sae_is(make_sae, x, tmp_path):
    sae = make_sae("batch_topk")
    cb = CBSAE.from_sae(sae, range(10), ["one"])
    with pytest.raises(ValueError, match="to_sae_part"):
        export_saelens(cb, tmp_path)
    assert not list(tmp_path.iterdir())
    again = cbsae_hub.load(export_saelens(cb.to_sae_part(), tmp_path))
    torch.testing.assert_close(again.encode(x), sae.encode(x)[:, :10])


def test_nothing_is_exported_of_a_model_that_diverged(make_sae, tmp_path):
    sae = copy.deepcopy(make_sae("relu"))
    sae.W_enc.data[0, 0] = float("nan")
    with pytest.raises(ModelFileError, match="W_enc holds NaN"):
        export_saelens(sae, tmp_path)
    assert not list(tmp_path.iterdir())


def test_our_own_format_is_no_import(make_sae, tmp_path):
    sae = make_sae("relu")
    sae.save_pretrained(tmp_path)
    assert detect(tmp_path) == "cbsae_hub"
    with pytest.raises(ValueError, match="cbsae_hub.load"):
        import_sae(tmp_path)
    loaded = cbsae_hub.load(tmp_path, layer=4, tokens="cls")
    assert isinstance(loaded, SAE) and (loaded.layer, loaded.tokens, loaded.encoder_id) == (4, "cls", None)
    with pytest.raises(ValueError, match="layer"):
        cbsae_hub.load(tmp_path, layer="four")
