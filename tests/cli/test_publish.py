import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cbsae_hub import publishing

FOLDER = Path("hub/emoji-sae")


@pytest.fixture
def sent(monkeypatch):
    """What would have been sent."""
    calls = []

    def publish(upload, **settings):
        calls.append((upload, settings))
        return SimpleNamespace(url="https://hub/me/x/commit/abc", commit="abc", changed=len(calls) == 1)

    monkeypatch.setattr(publishing, "publish", publish)
    return calls


def test_dry_run_tells_every_file_and_sends_nothing(answer, cbsae, sent):
    told = answer("publish", FOLDER, "me/emoji-sae", "--dry-run")
    upload = publishing.plan(FOLDER, "me/emoji-sae")
    assert told["files"] == dict(upload.files) and told["size"] == upload.size
    assert told["files"]["model.safetensors"] == (FOLDER / "model.safetensors").stat().st_size
    assert (told["repo_id"], told["repo_type"], told["url"]) == ("me/emoji-sae", "model", None)
    assert "nothing was sent" in cbsae("publish", FOLDER, "me/emoji-sae", "--dry-run").stdout
    assert sent == []


def test_settings_reach_the_upload(answer, cbsae, sent):
    told = answer("publish", FOLDER, "me/x", "--repo-type", "dataset", "--private", "--create-pr", "--overwrite-card",
                  "--message", "New names")  # fmt: skip
    upload, settings = sent[0]
    assert (upload.repo_id, upload.repo_type) == ("me/x", "dataset")
    assert settings == {"private": True, "create_pr": True, "overwrite_card": True, "message": "New names"}
    assert (told["url"], told["commit"], told["changed"]) == ("https://hub/me/x/commit/abc", "abc", True)
    again = cbsae("publish", FOLDER)
    assert sent[1][1] == {"private": None, "create_pr": False, "overwrite_card": False, "message": None}
    assert "https://hub/me/x/commit/abc (nothing had changed)" in again.stdout


@pytest.mark.parametrize(("arguments", "said"), [(["nowhere"], "nowhere"), ([FOLDER, "a/b/c"], "a/b/c")])
def test_what_cannot_be_published_is_said(cbsae, sent, arguments, said):
    result = cbsae("publish", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr and sent == []


@pytest.fixture
def folder(tmp_path):
    """The SAE with its pack, without the pictures of its card."""
    shutil.copytree(FOLDER, tmp_path / "my-sae", ignore=shutil.ignore_patterns("*.webp", "*.png"))
    return tmp_path / "my-sae"


def test_what_is_published_is_read_back_by_its_id(hub, cbsae, answer, folder, picture, monkeypatch):
    told = answer("publish", folder, "me/my-sae", "--private")
    assert told["changed"] and told["commit"] in told["url"]
    assert hub.private == {"me/my-sae"}
    assert {
        path: len(content) for path, content in hub.files["me/my-sae"]["main"].items() if path in told["files"]
    } == (told["files"])
    assert "(nothing had changed)" in cbsae("publish", folder, "me/my-sae").stdout
    here, there = (answer("info", model) for model in (folder, "me/my-sae"))
    assert here | {"model": "me/my-sae", "revision": told["commit"]} == there
    assert not [call for call in hub.calls if call.request.startswith("GET") and "model.safetensors" in call.request]
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        for name, argument in (("find", "zebra"), ("inspect", picture)):
            here, there = (answer(name, model, argument) for model in (folder, "me/my-sae"))
            assert here | {"model": "me/my-sae"} == there


def test_refusal_and_pull_request(hub, answer, folder):
    hub.fail("POST /api/models/me/my-sae/commit/", 403)
    refused = answer("publish", folder, "me/my-sae", code=1)
    assert refused["type"] == "PublishError" and "me/my-sae was not published" in refused["error"]
    hub.heal()
    told = answer("publish", folder, "me/my-sae", "--create-pr")
    assert "refs/pr/1" in hub.files["me/my-sae"] and told["url"]
    assert "model.safetensors" not in hub.paths("me/my-sae")


def test_model_without_a_pack_on_the_hub_has_no_names(hub, answer, folder, picture):
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    answer("publish", folder, "me/bare")
    assert answer("info", "me/bare")["pack"] is None
    assert answer("inspect", "me/bare", picture)["images"][0]["neurons"][0]["name"] is None
    assert "me/bare" in answer("find", "me/bare", "zebra", code=1)["error"]
