import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError

from cbsae_hub import SAE
from cbsae_hub.models.hub_model import ConfigError, ModelFileError, folder_revision

REPO = "me/sae"


def test_push_load_by_revision_and_offline(hub, sae, x, monkeypatch):
    expected = sae.encode(x).detach()
    first = sae.push_to_hub(REPO).rsplit("/", 1)[-1]
    with torch.no_grad():
        sae.b_dec.add_(1.0)
    sae.push_to_hub(REPO)

    latest = SAE.from_pretrained(REPO)
    assert torch.equal(latest.b_dec, sae.b_dec)
    old = SAE.from_pretrained(REPO, revision=first)
    assert torch.equal(old.encode(x), expected)
    assert (old.repo_id, old.revision) == (REPO, first)
    assert latest.revision != first
    assert old.config == sae.config

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert torch.equal(SAE.from_pretrained(REPO, revision=first).encode(x), expected)
    assert torch.equal(SAE.from_pretrained(REPO, local_files_only=True).b_dec, sae.b_dec)
    assert len(hub.requests) == before


def test_pushes_one_commit_without_pickles(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    assert set(hub.files[REPO]["main"]) == {"README.md", "config.json", "model.safetensors"}
    assert sum("/commit/" in call for call in hub.requests) == 1


def test_pushes_a_folder_with_what_lies_in_it(hub, make_sae, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("# My own card\n")
    (folder / "pack.json").write_text("{}")
    (folder / "draft.txt").write_text("not yet")
    make_sae("topk").push_to_hub(REPO, folder=folder, ignore_patterns=["draft.*"])
    pushed = hub.files[REPO]["main"]
    assert pushed["README.md"] == b"# My own card\n"
    assert set(pushed) == {"README.md", "config.json", "model.safetensors", "pack.json"}
    assert folder_revision(folder) == SAE.from_pretrained(folder).revision


def test_save_pretrained_can_push(hub, make_sae, tmp_path):
    url = make_sae("topk").save_pretrained(tmp_path / "model", repo_id=REPO, push_to_hub=True)
    assert url.rsplit("/", 1)[-1] in hub.files[REPO]
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_card_edited_on_the_hub_is_kept_until_told_otherwise(hub, make_sae, caplog):
    sae = make_sae("topk")
    sae.push_to_hub(REPO)
    sae.training_data = "me/photos"
    sae.push_to_hub(REPO)  # the card was ours: renewed
    assert b"me/photos" in hub.files[REPO]["main"]["README.md"]

    edited = hub.files[REPO]["main"]["README.md"].replace(b"# sae", b"# The best one")
    hub.files[REPO]["main"]["README.md"] = edited
    sae.sparsity.k = 7
    sae.push_to_hub(REPO)
    assert hub.files[REPO]["main"]["README.md"] == edited
    assert "keeping the hand-edited README.md" in caplog.text
    assert SAE.from_pretrained(REPO).k == 7

    sae.push_to_hub(REPO, overwrite_card=True)
    assert ModelCard(hub.files[REPO]["main"]["README.md"].decode()).data.datasets == ["me/photos"]
    assert b"The best one" not in hub.files[REPO]["main"]["README.md"]


def test_nothing_is_pushed_if_the_card_there_cannot_be_looked_at(hub, make_sae):
    hub.fail("HEAD .*README.md", 403)
    with pytest.raises((ModelFileError, HfHubHTTPError)):
        make_sae("topk").push_to_hub(REPO)
    assert not hub.files[REPO]["main"]


@pytest.mark.parametrize("status", [401, 403, 409])
def test_a_refused_push_is_an_error(hub, make_sae, status):
    hub.fail("POST /api/models/.*/commit", status)
    with pytest.raises(HfHubHTTPError):
        make_sae("topk").push_to_hub(REPO)
    assert not hub.files[REPO]["main"]


def test_what_is_not_on_the_hub(hub, make_sae):
    with pytest.raises(ModelFileError, match="does not exist or needs a token"):
        SAE.from_pretrained("me/nothing")
    make_sae("topk").push_to_hub(REPO)
    with pytest.raises(ModelFileError, match="no revision 'v9'"):
        SAE.from_pretrained(REPO, revision="v9")
    with pytest.raises(ModelFileError, match="neither an existing folder nor a Hub id"):
        SAE.from_pretrained("no/such/folder")
    with pytest.raises(ModelFileError, match="not in the cache"):
        SAE.from_pretrained("me/other", local_files_only=True)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error_even_beside_a_pickle(hub, make_sae, missing):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files["pytorch_model.bin"] = files.pop(missing)
    with pytest.raises(ModelFileError, match=f"has no {missing}"):
        SAE.from_pretrained(REPO)
    assert not any("pytorch_model" in call for call in hub.requests)


def test_an_unreachable_config_is_an_error_not_a_default_model(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    hub.fail("(HEAD|GET) .*config.json", 403)
    with pytest.raises(ModelFileError, match="config.json of me/sae"):
        SAE.from_pretrained(REPO)


def test_a_bad_config_on_the_hub_stops_before_the_weights_count(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files["config.json"] = files["config.json"].replace(b'"k"', b'"kk"')
    with pytest.raises(ConfigError, match="unknown keys.*kk"):
        SAE.from_pretrained(REPO)


def test_a_truncated_download_is_noticed(hub, make_sae):
    make_sae("topk").push_to_hub(REPO)
    files = hub.files[REPO]["main"]
    files["model.safetensors"] = files["model.safetensors"][:-40]
    with pytest.raises(ModelFileError, match="damaged or half-written"):
        SAE.from_pretrained(REPO)
