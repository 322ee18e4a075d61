"""Seeds of one training side by side, the meta-SAE, and the script that adds columns to the neuron table."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from small_hub import CONCEPTS, Pictures, make_hub
from typer.testing import CliRunner

from cbsae_hub import SAE, NeuronTable
from cbsae_hub.neurons.pruning import prune
from cbsae_hub.pipeline.extract import extract
from cbsae_hub.pipeline.score import score
from cbsae_hub.pipeline.sections import ActivationsSection, SAESection, ScoresSection
from cbsae_hub.pipeline.train import train
from cbsae_hub.studies.dictionary import seed_columns
from cbsae_hub.trainers.sae.meta import meta_explained_variance
from training import dictionary


def test_sums_of_few_directions_are_explained_and_random_rows_are_not():
    generator = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(12, 40, generator=generator), dim=1)
    strengths = torch.rand(100, 12, generator=generator) * (torch.rand(100, 12, generator=generator) < 0.15)
    strengths[strengths.sum(1) == 0, 0] = 1
    composed = meta_explained_variance(strengths @ parts, steps=80)
    atomic = meta_explained_variance(torch.randn(100, 40, generator=generator), steps=80)
    assert composed > atomic + 0.25
    with pytest.raises(ValueError, match="needs 16 neurons or more, got 15"):
        meta_explained_variance(torch.eye(15))


def test_equal_seeds_and_unknown_ones_are_refused():
    one, two, unknown = (SAE(4, 8, "topk", 2, seed=seed) for seed in (0, 0, None))
    with pytest.raises(ValueError, match="have one seed"):
        seed_columns(one, [two])
    with pytest.raises(ValueError, match="seed of the SAE is not known"):
        seed_columns(unknown, [one])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dictionary")
    make_hub(folder)
    (folder / "images").mkdir()
    for i, picture in enumerate(Pictures(40)["image"]):
        picture.save(folder / "images" / f"{i:02}.png")
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    images = {"images": folder / "images", "split": "train"}
    recipe = {
        "activations": {"encoder": folder / "encoder", "layer": 1, "tokens": "patches", **images,
                        "output": folder / "activations"},
        "sae": {"activations": folder / "activations", "output": folder / "trained", "d_sae": 24, "k": 4, "steps": 30,
                "batch_size": 64, "warmup_steps": 1, "heldout_fraction": 0.2, "lr": 0.01, "group_fractions": None},
        "scores": {"model": folder / "trained", "judge": folder / "judge", **images, "output": folder / "scores",
                   "concepts": {"all": folder / "concepts.txt"}, "top_k": 5, "encoder": folder / "encoder"},
        "dictionary": {"output": folder / "seeds"},
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe, default=str))
    extract(ActivationsSection.read(file))
    train(SAESection.read(file))
    score(ScoresSection.read(file))
    return folder


def test_the_columns_are_added_filter_and_prune(world, monkeypatch):
    monkeypatch.setattr(meta_explained_variance, "__defaults__", (0, 10))
    command = typer.Typer()
    command.command()(dictionary.main)
    done = CliRunner().invoke(command, ["--recipe", str(world / "recipe.yaml")], env={"COLUMNS": "1000"})
    assert done.exit_code == 0, done.output
    mine, one, two = (SAE.from_pretrained(world / name) for name in ("trained", "seeds/seed-1", "seeds/seed-2"))
    frame = pd.read_parquet(world / "scores" / "neurons.parquet")
    for other in (one, two):
        assert not torch.equal(mine.W_dec, other.W_dec)
    cosines = [(mine.W_dec @ other.W_dec.T).detach().numpy() for other in (one, two)]
    share = np.mean([table.max(1) >= 0.7 for table in cosines], axis=0)
    np.testing.assert_allclose(frame["seed_share"], share)
    start = SAE(mine.d_in, 24, "topk", 4, seed=0).W_dec
    np.testing.assert_allclose(frame["seed_moved"], 1 - (mine.W_dec * start).sum(1).detach(), atol=1e-5)
    assert (frame["seed_cosine"] <= np.mean([table.max(1) for table in cosines], axis=0) + 1e-6).all()
    assert len(NeuronTable(frame).filter(seed_moved=(0.0, None))) == 24
    kept = prune(frame, "seed_cosine", count=3).keep
    alive = frame[frame["status"] != "dead"]
    assert set(kept) == set(alive.nlargest(3, "seed_cosine")["neuron"])
    figures = json.loads((world / "seeds" / "dictionary.json").read_text())
    assert figures["seeds"] == [0, 1, 2] and figures["seed_cosine"]["mean"] == pytest.approx(
        frame["seed_cosine"].mean()
    )
    assert figures["chance"]["seed_cosine"]["mean"] < figures["seed_cosine"]["mean"]
    assert "| seed cosine | " in done.stdout
