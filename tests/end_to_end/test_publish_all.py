"""Everything that is shipped goes to a Hub over HTTP, stops in the middle, goes on, and is loaded back."""

import re
from pathlib import Path

import pytest
import torch
import typer
from huggingface_hub import constants
from PIL import Image
from typer.testing import CliRunner

from cbsae_hub import CBSAE, SAE, Pack, VisionEncoder
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.models import folder_revision
from cbsae_hub.studio.server.model import LoadedModel
from training import publish

ROOT = Path(__file__).parents[2]

NAMES = ("clip", "judge", "teacher", "dino", "llava", "unclip", "sae", "cbsae")
MODELS = {f"emoji-{name}" for name in NAMES}
SPACE = f"spaces/lab/{publish.SPACE}"
IMAGES = ("emoji-images", "emoji-pairs")
KEYS = {f"lab/{name}" for name in MODELS} | {f"datasets/lab/{name}" for name in IMAGES} | {SPACE}


def run(*options):
    script = typer.Typer()
    script.command()(publish.main)
    return CliRunner().invoke(script, [*map(str, options)], env={"COLUMNS": "1000"})


def published(*options):
    return run("--all", "--namespace", "lab", *options)


def untouched():
    return {path: path.stat().st_mtime_ns for path in (ROOT / "hub").rglob("*")}


@pytest.mark.slow
def test_all_fails_goes_on_and_is_loaded_back(hub, monkeypatch, tmp_path):
    before = untouched()
    hub.fail("POST /api/models/lab/emoji-llava/commit/", 403)
    stopped = published()
    assert stopped.exit_code == 1
    assert "lab/emoji-llava was not published: your token may not write there" in stopped.output
    done = re.search("Done: (.*)", stopped.output)[1].split(", ")
    left = re.search("Left: (.*)", stopped.output)[1].split(", ")
    assert {*done, *left} == {key.removeprefix("datasets/").removeprefix("spaces/") for key in KEYS}
    assert left[0] == "lab/emoji-llava" and left[-1] == f"lab/{publish.SPACE}" and done[0] == "lab/emoji-images"
    assert hub.paths("lab/emoji-llava") == set(), "made, but nothing is in it"

    hub.heal()
    first = len(hub.commits)
    resumed = published()
    assert resumed.exit_code == 0, resumed.output
    assert set(hub.files) == KEYS
    assert [line for line in resumed.output.splitlines() if line.endswith(": unchanged")] == [
        f"{repo_id}: unchanged" for repo_id in done
    ]
    assert len(hub.commits) - first == len(left), "one commit each"
    order = [re.search("lab/[^/]+", commit)[0] for commit in hub.commits]
    for name in ("emoji-clip", "emoji-teacher", "emoji-judge", "emoji-images"):
        assert order.index(f"lab/{name}") < order.index("lab/emoji-sae") < order.index("lab/emoji-cbsae")
    [collection] = hub.collections.values()
    assert collection["private"] is False
    assert {(item["id"], item["type"]) for item in collection["items"]} == {
        *((f"lab/{name}", "model") for name in MODELS),
        *((f"lab/{name}", "dataset") for name in IMAGES),
        (f"lab/{publish.SPACE}", "space"),
    }

    for name in MODELS:  # what was measured was measured on these very weights
        for path in (ROOT / "hub" / name).rglob("*.safetensors"):
            there = hub.files[f"lab/{name}"]["main"][path.relative_to(ROOT / "hub" / name).as_posix()]
            assert there == path.read_bytes()
    for key in KEYS - {SPACE}:
        for path, content in hub.files[key]["main"].items():
            assert path == "README.md" or b'"hub/' not in content, (key, path)
    assert b"sdk: gradio" in hub.files[SPACE]["main"]["README.md"], "not the one that the Hub made"
    assert untouched() == before

    again = published()
    assert again.output.count(": unchanged") == len(KEYS)
    assert len(hub.commits) - first == len(left)

    monkeypatch.chdir(tmp_path)  # where there is no hub/
    load_everything()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.calls)
    load_everything()
    assert len(hub.calls) == asked


def load_everything():
    local = ROOT / "hub"
    sae, pack = SAE.from_pretrained("lab/emoji-sae"), Pack.from_pretrained("lab/emoji-cbsae")
    assert sae.encoder_id == "lab/emoji-clip" and pack.info["judge"]["id"] == "lab/emoji-judge"
    encoder = VisionEncoder.from_pretrained(sae.encoder_id, sae.layer, sae.tokens, sae.encoder_revision)
    assert (encoder.repo_id, encoder.revision) == ("lab/emoji-clip", folder_revision(local / "emoji-clip"))
    judge = ClipLike.from_pretrained(
        **{"repo_id": pack.info["judge"]["id"], "revision": pack.info["judge"]["revision"]}
    )
    picture = Image.new("RGB", (64, 64), "red")
    here = VisionEncoder.from_pretrained(local / "emoji-clip", sae.layer, sae.tokens)
    torch.testing.assert_close(
        sae.encode(encoder([picture])), SAE.from_pretrained(local / "emoji-sae").encode(here([picture])), rtol=0, atol=0
    )
    expected = ClipLike.from_pretrained(local / "emoji-judge").embed_texts(["pizza"])
    torch.testing.assert_close(judge.embed_texts(["pizza"]), expected, rtol=0, atol=0)
    loaded = LoadedModel("lab/emoji-cbsae")
    assert isinstance(loaded.sae, CBSAE) and loaded.inspect(picture).explained > 0 and loaded.evaluation


@pytest.mark.slow
def test_dry_run_needs_nobody(hub):
    told = published("--dry-run")
    assert told.exit_code == 0, told.output
    assert hub.calls == []
    rows = {line.split()[0]: line.split() for line in told.output.splitlines()}
    for name in MODELS:
        _, kind, files, size, *_ = rows[f"lab/{name}"]
        there = [path for path in (ROOT / "hub" / name).rglob("*") if path.is_file() and path.name != "log.jsonl"]
        assert kind == "model" and int(files) == len(there)
        expected = sum(path.stat().st_size for path in there)
        assert abs(int(size.replace(",", "")) - expected) < 2000, "but for cards and references"
    assert rows["lab/emoji-images"][1] == "dataset" and rows[f"lab/{publish.SPACE}"][1] == "space"
    assert "hub/emoji-clip -> lab/emoji-clip" in " ".join(rows["lab/emoji-sae"])
    unnamed = run("--all", "--dry-run")
    assert unnamed.exit_code == 0 and "OWNER/emoji-sae " in unnamed.output and hub.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --all or --space"),
        (("--all", "--space", "x"), "give either --all or --space"),
        (("--all",), "--all needs --namespace"),
        (("--all", "--namespace", "two words"), "is no id on the Hub"),
    ],
)
def test_bad_input_gets_a_sentence(hub, options, message):
    result = run(*options)
    assert result.exit_code == 2 and message in result.output, result.output
    assert hub.calls == []
