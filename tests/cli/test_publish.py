from pathlib import Path
from types import SimpleNamespace

import pytest

publishing = pytest.importorskip("cbsae_hub.publishing")
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
