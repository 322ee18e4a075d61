"""A few neurons of the shipped SAE, on a few images, by the script."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scripts import run_script

from cbsae_hub import SAE
from cbsae_hub.data.images import load_images
from cbsae_hub.steering import ClipZeroShotSteerer, Edit, Steering
from cbsae_hub.steering.latents import RawNeurons

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
NEURONS, SCENES, WHITE = 12, "2 images (probe)", "a white image"


def run(*settings):
    given = [part for setting in settings for part in ("--set", setting)]
    return run_script("zero_shot_steering.py", "--recipe", "training/recipes/emoji.yaml", *given, cwd=ROOT)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steering")
    ended = run(f"neurons={NEURONS}", "images_count=2", "strengths=[25, 60]", "seed=3", f"output={folder / 'out'}")
    assert ended.returncode == 0, ended.stderr
    return folder / "out", ended.stdout


@pytest.fixture(scope="module")
def told(done):
    return json.loads((done[0] / "zero_shot_steering.json").read_text())


def test_the_summary_is_that_of_the_table_of_neurons(done, told):
    frame = pd.read_parquet(done[0] / "neurons.parquet")
    parts = dict(list(frame.groupby(["images", "neurons_of", "strength"])))
    counts = {"SAE": NEURONS, "raw neurons": 128, "random directions": 128}
    assert len(frame) == 2 * 3 * sum(counts.values()) and len(told["rows"]) == 2 * 3 * 3
    for row in told["rows"]:
        part = parts[row["images"], row["neurons_of"], np.inf if row["strength"] is None else row["strength"]]
        assert len(part) == row["neurons"] == counts[row["neurons_of"]] == part["neuron"].nunique()
        assert row["layer_s"] == pytest.approx(part["s_f"].mean(), rel=1e-5)
        assert row["share_above_gamma"] == pytest.approx((part["s_f"] > 0.1).mean())
        lost = told["uniform_s_f"][row["images"]]
        assert row["share_beyond_loss"] == pytest.approx((part["s_f"] > 0.1 + lost).mean())
        assert row["count_above_beta"] == (part["s_f"] > 0.5).sum()
        assert row["concept_coverage"] == pytest.approx(part.loc[part["s_f"] > 0.5, "concept"].nunique() / 444)
        sae = next(one for one in told["rows"] if (one["images"], one["strength"]) == (row["images"], row["strength"]))
        assert sae["neurons_of"] == "SAE"
        for limit in ("above_gamma", "beyond_loss", "above_beta"):
            share = row[f"share_{limit}"]
            assert row[f"ratio_{limit}"] == (pytest.approx(sae[f"share_{limit}"] / share) if share else None)


@pytest.mark.parametrize(("neurons_of", "seed"), [("SAE", None), ("raw neurons", None), ("random directions", 3)])
def test_scores_are_those_of_steering_one_neuron(done, neurons_of, seed):
    sae = SAE.from_pretrained(ROOT / "hub" / "emoji-sae")
    sae = sae if neurons_of == "SAE" else RawNeurons(128, sae.layer, seed)
    words = (ROOT / "hub" / "emoji-images" / "concepts.txt").read_text(encoding="utf-8").split("\n")[:-1]
    steerer = ClipZeroShotSteerer.from_pretrained(ROOT / "hub" / "emoji-clip", sae, words)
    scenes = load_images(ROOT / "hub" / "emoji-images", "probe")
    numbers = sorted(np.random.default_rng(3).choice(len(scenes), 2, replace=False).tolist())
    frame = pd.read_parquet(done[0] / "neurons.parquet").query("neurons_of == @neurons_of and strength == 60")
    pictures = {SCENES: [scenes[i]["image"] for i in numbers], WHITE: [Image.new("RGB", (64, 64), "white")]}
    assert set(frame["images"]) == set(pictures)
    for name, part in frame.groupby("images"):
        for row in part.iloc[:2].itertuples():
            steering = Steering([Edit(int(row.neuron), 60.0)], keep_error=True)
            effect = steerer.effect(pictures[name], steering)
            assert row.s_f == pytest.approx(effect.s_f, rel=1e-3)
            assert row.concept == words[effect.delta_p.argmax()]


def test_the_table_and_the_figure_are_of_what_was_measured(done, told):
    folder, printed = done
    assert {path.name for path in folder.iterdir()} == {
        "neurons.parquet", "zero_shot_steering.json", "zero_shot_steering.md", "zero_shot_steering.png",
    }  # fmt: skip
    assert printed == (folder / "zero_shot_steering.md").read_text(encoding="utf-8")
    lines = [line.strip("| \n").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    assert [line[:2] for line in lines[2:]] == [[i, s] for i in (SCENES, WHITE) for s in ("25", "60", "asymptote")]
    first = [row for row in told["rows"] if row["images"] == SCENES and row["strength"] == 25]
    assert lines[2][2] == " / ".join(f"{100 * row['share_above_gamma']:.1f}" for row in first)
    assert f"{told['uniform_s_f'][WHITE]:.3f} ({WHITE})" in printed
    assert Image.open(folder / "zero_shot_steering.png").format == "PNG"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("images_count=0", "images_count must be between 1 and 4608"),
        ("neurons=2049", "neurons must be between 1 and 2048"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(setting, message, tmp_path):
    ended = run(setting, f"output={tmp_path}")
    said = " ".join(ended.stderr.replace("\u2502", " ").split())
    assert ended.returncode != 0 and "Traceback" not in said and message in said
    assert not list(tmp_path.iterdir())
