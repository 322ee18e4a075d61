"""The script of the study of what features draw, on a world on disk."""

import json

import pandas as pd
import pytest
import typer
from small_hub import make_hub
from steerable_models import stable_diffusion
from text_sae import PLANTED, PROMPTS, planted
from typer.testing import CliRunner

from cbsae_hub.pipeline.sections import WordsSection
from cbsae_hub.pipeline.words import score_words
from training import drawn_features

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = planted(tmp_path_factory.mktemp("world"))
    (folder / "hub").mkdir()
    make_hub(folder / "hub")
    stable_diffusion().save_pretrained(folder / "pipeline")
    (folder / "words.txt").write_text("\n".join(PLANTED))
    words = {"model": folder / "sae", "images": folder / "prompts.txt", "output": folder / "scores"}
    study = {
        "model": folder / "sae", "scores": folder / "scores", "pipeline": folder / "pipeline",
        "descriptive": folder / "words.txt", "prompts": PROMPTS[:2], "check": PROMPTS[2:4], "explainer": "nobody",
        "judge": folder / "hub" / "judge", "output": folder / "drawn", "steps": 1, "seeds": [1, 2], "strength": 3,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps({"words": words, "drawn_features": study}, default=str))
    score_words(WordsSection.read(folder / "recipe.yaml"))
    return folder


def run(world, *overrides):
    command = typer.Typer()
    command.command()(drawn_features.main)
    arguments = ["--recipe", str(world / "recipe.yaml"), *(part for one in overrides for part in ("--set", one))]
    return CliRunner().invoke(command, arguments, env={"COLUMNS": "1000"})


def test_features_are_drawn_named_and_tested(world, monkeypatch):
    said = iter(["a wall"] * 4 + ["dog", "snow"] * 2 + ["sea"] * 4)
    monkeypatch.setattr(drawn_features, "explainer_of", lambda settings, device: lambda images: next(said))
    done = run(world)
    assert done.exit_code == 0, done.output
    content = json.loads((world / "drawn" / "drawn_features.json").read_text())
    features = pd.DataFrame(content["features"])
    assert features["word"].tolist() == PLANTED and features["attribute"].tolist() == ["dog", "sea"]
    pairs = pd.DataFrame(content["pairs"])
    assert len(pairs) == 4 and pairs["attribute"].tolist() == ["dog"] * 2 + ["sea"] * 2
    assert content["tests"][0]["n"] == 4 and (world / "drawn" / "drawn_features.png").is_file()
    assert "| steered |" in done.stdout and (world / "drawn" / "drawn_features.md").read_text() == done.stdout
    assert run(world).stdout == done.stdout  # and asks nobody: there is nothing more to be said
    refused = run(world, "strength=2")
    assert refused.exit_code == 2 and "progress.json" in refused.output
    refused = run(world, "descriptive=" + str(world / "nothing.txt"))
    assert refused.exit_code == 2
