"""The scripts of the studies of layers, on a tiny encoder and coloured pictures."""

import json

import pandas as pd
import pytest
import typer
import yaml
from small_hub import Pictures
from tiny_models import build, processor
from typer.testing import CliRunner

from cbsae_hub.data.hierarchy import ConceptTree
from training import ontology, probing

TRAIN = {"expansion": 2, "activation": "topk", "k": 4, "group_fractions": None, "steps": 12, "batch_size": 24,
         "warmup_steps": 2, "lr": 0.01, "heldout_fraction": 0.1, "dead_after_tokens": 1000}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    build("Dinov2Model").save_pretrained(folder / "encoder")
    processor("Dinov2Model").save_pretrained(folder / "encoder")
    pictures = Pictures(80)
    for i, (colour, picture) in enumerate(zip(pictures.colours, pictures.columns["image"])):
        place = folder / "images" / ("train" if i < 50 else "test") / colour
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i}.png")
    edges = [("thing", "dark"), ("thing", "light"), ("dark", "red"), ("dark", "blue"), ("light", "green"),
             ("light", "white")]  # fmt: skip
    ConceptTree.from_edges(edges).save(folder / "tree.json")
    images = {"images": str(folder / "images"), "split": "train"}
    common = {**images, "saes": str(folder / "saes"), "train": TRAIN, "layers": [1, 2]}
    test = {"images": str(folder / "images"), "split": "test"}
    sections = {
        "ontology": {
            **common, "encoder": str(folder / "encoder"), "tokens": "cls", "probe_images": test["images"], "best": 2,
            "probe_split": "train+test", "label": "label", "tree": str(folder / "tree.json"),
            "output": str(folder / "ontology"),
        },
        "probing": {
            **common, "encoders": {"tiny": str(folder / "encoder")}, "tokens": "cls", "label": "label", "usual": "test",
            "sets": {"test": test, "again": {**test, "kind": "near", "mask": True}}, "layer_tokens": ["patches"],
            "expansions": [1], "sparsities": {"relu": [0.1], "topk": [2]}, "seeds": [0, 1], "least_images": 2,
            "output": str(folder / "probing"),
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return folder


def run(script, recipe, *options):
    command = typer.Typer()
    command.command()(script.main)
    done = CliRunner().invoke(command, ["--recipe", str(recipe / "recipe.yaml"), *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_ontology_counts_features_of_all_layers_and_goes_on(recipe, monkeypatch):
    printed = run(ontology, recipe)
    folder = recipe / "ontology"
    told, frame = json.loads((folder / "ontology.json").read_text()), pd.read_parquet(folder / "features.parquet")
    assert sorted(frame["layer"].unique()) == [1, 2] and set(told["by_layer"]) == {"1", "2"}
    for row in told["counts"]:
        part = frame[frame["set"] == row["set"]]
        assert (row["features"], row["above_0.75"]) == (len(part), (part["coverage"] > 0.75).sum())
        assert f"| {row['set']} | {row['above_0.99']} |" in printed
    assert (folder / "densities.png").stat().st_size > 1000
    monkeypatch.setattr(ontology, "layer_features", None)  # nothing is computed again
    assert run(ontology, recipe).splitlines()[-1] == printed.splitlines()[-1]


def test_probing_measures_every_part_once(recipe, monkeypatch):
    printed = run(probing, recipe)
    folder = recipe / "probing"
    told = json.loads((folder / "probing.json").read_text())
    accuracies = [row for row in told["probes"] if "accuracy" in row]
    assert len(accuracies) == 2 * 4 * 2 and all(0 <= row["accuracy"] <= 1 for row in accuracies)
    assert {row["way"] for row in told["probes"] if "way" in row} == {
        "reconstruction error", "Mahalanobis distance", "maximum softmax", "distance from mean",
    }  # fmt: skip
    assert [row["auroc"] for row in told["sweep"] if row["set"] == "again"] == [0.5, 0.5], "the same images"
    assert {(row["activation"], row["sparsity"]) for row in told["sweep"]} == {("relu", 0.1), ("topk", 2)}
    assert {(row["layer"], row["tokens"]) for row in told["layers"]} == {(1, "patches"), (2, "patches")}
    assert {one.name for one in folder.glob("*.png")} == {"sweep.png", "layers.png"}
    monkeypatch.setattr(probing, "fitted", None)
    monkeypatch.setattr(probing, "errors", None)
    assert run(probing, recipe).splitlines()[-1] == printed.splitlines()[-1]
