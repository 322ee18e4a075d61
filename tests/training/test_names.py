"""The scripts that test names and scores, on a world on disk; tables that prune by the new columns."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import typer
from small_hub import CONCEPTS, Pictures, make_hub
from steerable_models import llava
from typer.testing import CliRunner

from cbsae_hub.neurons.pruning import prune
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pipeline.score import score
from cbsae_hub.pipeline.sections import ScoresSection
from training import names, sanity

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    make_hub(folder)
    shutil.copytree(folder / "judge", folder / "second-judge")
    model, processor = llava(vision_feature_layer=-3)  # the SAE's block
    model.save_pretrained(folder / "llava")
    processor.save_pretrained(folder / "llava")
    pictures = Pictures(96)
    for split, rows in (("train", range(64)), ("test", range(64, 96))):
        (folder / "images" / split).mkdir(parents=True)
        for i in rows:
            pictures[i]["image"].save(folder / "images" / split / f"{i}.png")
        columns = {"colour": pictures.colours, "side": pictures.sides}
        table = pd.DataFrame(
            {"file_name": [f"{i}.png" for i in rows], **{k: [v[i] for i in rows] for k, v in columns.items()}}
        )
        table.to_csv(folder / "images" / split / "metadata.csv", index=False)
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    scores = {"model": folder / "sae", "judge": folder / "judge", "images": folder / "images", "split": "train",
              "concepts": {"all": folder / "concepts.txt"}, "truth": {"colour": "colour", "side": "side"}, "top_k": 5,
              "output": folder / "scores"}  # fmt: skip
    test = {"judge": folder / "second-judge", "split": "test", "output": folder / "names", "llava": folder / "llava",
            "neurons": 4, "tops": 1, "max_new_tokens": 3, "concepts": 2}  # fmt: skip
    recipe = {"scores": scores, "names": test, "sanity": {"output": folder / "sanity", "least_ap": 0.3, "draws": 2}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe, default=str))
    score(ScoresSection.read(folder / "recipe.yaml"))
    return folder


def run(script, world, *overrides):
    command = typer.Typer()
    command.command()(script.main)
    arguments = ["--recipe", str(world / "recipe.yaml"), *(part for one in overrides for part in ("--set", one))]
    return CliRunner().invoke(command, arguments, env={"COLUMNS": "1000"})


def test_names_are_tested_and_their_columns_prune(world, monkeypatch):
    done = run(names, world)
    assert done.exit_code == 0, done.output
    table = NeuronTable.read(world / "scores").frame
    assert {"name_correlation", "name_ap", "name_percentile"} <= set(table) and table["name_ap"].notna().any()
    content = json.loads((world / "names" / "names.json").read_text())
    assert content["simulation"]["name_ap"] == pytest.approx(table["name_ap"].mean())
    rows = pd.read_parquet(world / "names" / "explanations.parquet")
    named = rows[rows["method"] == "CLIP-Dissect"].set_index("neuron")
    own = table.set_index("neuron").loc[named.index]
    np.testing.assert_allclose(named["correlation"], own["name_correlation"])
    assert (named["right"] == own["truth_agrees"].astype(float)).all()
    assert {"LLaVA, white, direction added", "control: LLaVA, white", "linear, up to 2"} <= set(rows["method"])
    assert (world / "names" / "names.png").is_file() and "| CLIP-Dissect |" in done.output

    kept = prune(table, by="both", interpretability="name_correlation", count=3)
    best = table[table["status"] != "dead"].sort_values("name_correlation", ascending=False)["neuron"].head(3)
    assert kept.keep == sorted(best) and kept.settings["by"] == ["name_correlation"]

    monkeypatch.setattr("training.names.OwnWords._ask", lambda *_: pytest.fail("LLaVA was asked again"))
    assert run(names, world).stdout == done.stdout
    refused = run(names, world, "alpha=3")
    assert refused.exit_code == 2 and "answers.json" in refused.output


@pytest.mark.parametrize(
    ("override", "message"),
    [("split=train", "test the names on another split"), ("judge={judge}", "test them by another judge")],
)
def test_tests_that_prove_nothing_are_refused(world, override, message):
    done = run(names, world, override.format(judge=world / "judge"))
    assert done.exit_code == 2 and message in done.output


def test_scores_are_tested(world):
    done = run(sanity, world)
    assert done.exit_code == 0, done.output
    content = json.loads((world / "sanity" / "sanity.json").read_text())
    rows = pd.DataFrame(content["rows"])
    assert set(rows["neurons"]) == {"neurons", "ideal neurons"} and set(rows["test"]) == {"half", "double"}
    assert rows[rows["score"] == "F1"].query("neurons == 'ideal neurons'")["falls"].eq(1).all()
    assert (world / "sanity" / "sanity.png").is_file() and "| F1 |" in done.output
    done = run(sanity, world, "scores.truth=null")
    assert done.exit_code == 2 and "lacks truth" in done.output
