"""The script of the study of what words and pictures share, on a tiny LLaVA and coloured pictures."""

import json

import pandas as pd
import pytest
import typer
import yaml
from small_hub import Pictures
from steerable_models import llava
from typer.testing import CliRunner

from cbsae_hub.studies import layer_saes
from training import overlap

TRAIN = {"expansion": 2, "activation": "topk", "k": 4, "group_fractions": None, "steps": 5, "batch_size": 24,
         "warmup_steps": 1, "lr": 0.01, "heldout_fraction": 0.1, "dead_after_tokens": 1000}  # fmt: skip
KEYS = ["model", "texts", "pictures", "features"]


def run(folder, *options):
    command = typer.Typer()
    command.command()(overlap.main)
    return CliRunner().invoke(command, ["--recipe", str(folder / "recipe.yaml"), *options])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap")
    for part in llava():
        part.save_pretrained(folder / "llava")
    pictures = Pictures(24)
    for i, (colour, picture) in enumerate(zip(pictures.colours, pictures.columns["image"])):
        place = folder / "images" / "train" / colour
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i}.png")
    images = str(folder / "images")
    section = {
        "images": images, "split": "train", "saes": str(folder / "saes"), "train": TRAIN, "layers": [1],
        "tokens": "random:3", "llava": str(folder / "llava"), "probe_images": images, "probe_split": "train",
        "label": "label", "max_new_tokens": 3, "pictures": 3, "examples": 2, "output": str(folder / "out"),
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"overlap": section}))
    return folder


def test_every_pair_of_places_is_compared_and_a_second_run_trains_nothing(folder, monkeypatch):
    done = run(folder)
    assert done.exit_code == 0, done.output
    told = json.loads((folder / "out" / "overlap.json").read_text())
    classes, pictures = (pd.read_parquet(folder / "out" / f"{name}.parquet") for name in ("classes", "pictures"))
    assert sorted(set(classes["classes"])) == ["blue", "green", "red", "white"] and len(pictures) == 12 * 3
    words = [tuple(row[key] for key in KEYS) for row in told["words"]]
    assert len(set(words)) == 2 * 2 * 2 * 2
    for row in told["words"]:
        assert row["difference"] == pytest.approx(row["matched"] - row["shuffled"])
        part = classes[(classes[KEYS] == [row[key] for key in KEYS]).all(1)]
        assert row["matched"] == pytest.approx(part["matched"].mean()) and len(part) == 4
    assert [row["model"] for row in told["maps"]] == ["SAE", "untrained SAE", "length of the activations, no SAE"]
    assert all((folder / "out" / f"{name}.md").read_text() in done.output for name in ("words", "maps"))
    assert all((folder / "out" / f"{name}.png").stat().st_size > 1000 for name in ("words", "maps-1"))
    monkeypatch.setattr(layer_saes, "SAETrainer", None)
    again = run(folder)
    assert again.exit_code == 0 and again.output.splitlines()[-1] == done.output.splitlines()[-1]


def test_what_cannot_be_is_a_sentence(folder):
    for option, message in (
        ("prompt=Is it red?", "names the class 'red'"),
        ("question=What is it?", "question must hold {a} or {name}"),
        ("top=1.5", "top must lie between 0 and 1, got 1.5"),
    ):
        failed = run(folder, "--set", option, "--set", f"output={folder / 'other'}" + str(len(option)))
        assert failed.exit_code and message in " ".join(failed.output.replace("│", "").split()), failed.output
