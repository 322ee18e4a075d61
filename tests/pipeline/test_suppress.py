"""The command on a tiny CLIP and pictures with a table of labels."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from PIL import Image
from steerable_models import clip, image_processor, pictures, tokenizer
from typer.testing import CliRunner

from cbsae_hub.cli.app import app
from cbsae_hub.pipeline.sections import SuppressionSection
from cbsae_hub.trainers.sae.trainer import SAETrainer

COUNT = 36


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for part in (clip(), image_processor(), tokenizer(16)):
        part.save_pretrained(folder / "clip")
    (folder / "pictures").mkdir()
    for i, picture in enumerate(pictures(COUNT)):
        picture.save(folder / "pictures" / f"{i}.png")
    rows = np.arange(COUNT)
    table = {"file": [f"{i}.png" for i in rows], "y": rows % 2, "place": rows // 2 % 2, "part": rows // 12}
    pd.DataFrame(table).to_csv(folder / "pictures" / "labels.csv", index=False)
    section = {
        "encoder": str(folder / "clip"), "images": str(folder / "pictures"), "tables": ["labels.csv"],
        "file_column": "file", "split_column": "part", "train": "0", "val": "1", "test": "2",
        "attribute": {"column": "place", "values": [1]},
        "target": {"column": "y", "classes": {"land": [0], "water": [1]}},
        "prompts": {"land": ["a", "b"], "water": ["c"]},
        "layers": [-3, 3], "sae_images": {"images": str(folder / "pictures"), "split": "train"}, "seeds": [0, 1],
        "expansion": 2, "k": 4, "steps": 20, "batch_size": 40, "taus": [1e-6, 0.01], "batch": 5,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"suppression": section}))
    return folder


def run(world, *arguments, output="out"):
    command = ["suppress", "--recipe", world / "recipe.yaml", "--output", world / output, "--json", *arguments]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.stdout, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def answer(world):
    return run(world)


def test_every_method_is_reported_at_every_layer(world, answer):
    assert "error" not in answer, answer
    rows = pd.DataFrame(answer["rows"])
    methods = {
        "none",
        "SAE features",
        "random SAE features",
        "raw neurons",
        "random raw neurons",
        "LEACE",
        "LEACE, always",
    }
    assert set(map(tuple, rows[["layer", "method", "rule"]].to_numpy())) == {
        (layer, method, rule) for layer in (1, 3) for method in methods for rule in ("strict", "relaxed")
    }
    assert rows.groupby("method")["seeds"].first()[["SAE features", "raw neurons"]].tolist() == [2, 1]
    assert rows["test_worst"].between(0, rows["test_overall"]).all()
    record = json.loads((world / "out" / "suppression.json").read_text())
    assert record["summary"] == answer["rows"] and record["best"] == answer["best"]
    assert (world / "out" / "suppression.md").read_text() == answer["markdown"]
    sweep = pd.read_parquet(world / "out" / "sweep.parquet")
    assert len(sweep) == 2 * (2 * (2 + 2 + 2) + 2 + 2)
    assert Image.open(world / "out" / "suppression.png").format == "PNG"
    assert not list((world / "out").rglob("activations"))


def test_layers_that_are_done_are_read(world, answer, monkeypatch):
    monkeypatch.setattr(SAETrainer, "train", None)
    assert run(world)["rows"] == answer["rows"]
    other = run(world, "--set", "drop=0.1")
    assert other["type"] == "OtherSettings" and "drop" in other["error"]


def test_saes_that_are_there_are_taken(world, answer, monkeypatch):
    monkeypatch.setattr(SAETrainer, "train", None)
    monkeypatch.setattr("cbsae_hub.pipeline.suppress.plot_examples", lambda strips, titles: Figure())
    saes = [world / "out" / "saes" / "layer-1" / f"seed-{seed}" for seed in (0, 1)]
    given = run(world, "--sae", saes[0], "--sae", saes[1], "--set", "layers=null", output="given")
    assert given["rows"] == [row for row in answer["rows"] if row["layer"] == 1]
    error = run(world, "--sae", saes[0], output="other")["error"]
    assert error == "there is no SAE of layer 3 among saes; they are of [1]"


def test_a_split_without_a_group_is_an_error(world):
    error = run(world, "--set", "target={column: part, classes: {a: [0, 1], b: [2]}}", "--set", "prompts=null")["error"]
    assert error.startswith("no image of split 0 of ") and "has 2 in part (class 'b')" in error


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"saes": ["a"]}, "exactly one of saes and sae_images"),
        ({"prompts": {"land": ["a"]}}, "water differ"),
        ({"target": {"column": "y", "classes": {"land": [0]}}, "prompts": None}, "two classes at least"),
    ],
)
def test_settings_that_cannot_be_are_errors(world, changes, error):
    section = yaml.safe_load((world / "recipe.yaml").read_text())["suppression"]
    with pytest.raises(ValueError, match=error):
        SuppressionSection.from_dict({**section, "output": "out", **changes})
