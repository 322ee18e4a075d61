"""The study on a tiny CLIP: its parts against formulas written out, the script from pictures to tables."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from steerable_models import VISION, blocks_by_hand, clip, edited_by_hand, image_processor, sae_for, tokenizer
from torch.testing import assert_close
from typer import Typer
from typer.testing import CliRunner

from cbsae_hub.data.typographic import LabelledImages
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.studies import typographic
from cbsae_hub.studies.typographic import DEFENCES, TypographicSettings, TypographicStudy, summary, widen

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
CLASSES, LAST = ["dog", "owl", "pie"], VISION["num_hidden_layers"] - 1


def write(image, word, rng):
    """An attack: a stripe whose colour is the word's."""
    image = image.copy()
    image.paste((85 * CLASSES.index(word), 255, 0), (0, int(rng.integers(0, 8)), 16, 12))
    return image


def pictures(count, seed):
    noise = np.random.default_rng(seed).integers(0, 90, (count, 16, 16, 3)).astype(np.uint8)
    noise[..., 2] += (np.arange(count) % 3 * 70).astype(np.uint8)[:, None, None]
    images = [Image.fromarray(pixels) for pixels in noise]
    return LabelledImages(images.__getitem__, tuple(CLASSES[i % 3] for i in range(count)))


@pytest.fixture(scope="module")
def study():
    model, sae = clip(), sae_for(layer=LAST)
    steerer = ClipZeroShotSteerer(model, image_processor(), tokenizer(16), sae, CLASSES, template="a {}")
    settings = TypographicSettings((0.01, 0.1), (0.3, 1.0), ("a {}",), (0.01,), {"epochs": 1, "batch": 8})
    sets = (pictures(12, 1), pictures(9, 2), pictures(9, 3))
    return TypographicStudy(steerer, "a {}", *sets, write, {}, settings)


def test_directions_close_to_a_feature_are_taken_in():
    sae = sae_for()
    rows = sae.W_dec.detach().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [j for j in range(32) if j in (3, 8) or max(unit[j] @ unit[3], unit[j] @ unit[8]) > 0.3]
    assert widen(sae, torch.tensor([8, 3]), 0.3) == expected and len(expected) > 2
    assert widen(sae, torch.tensor([8, 3]), 1.0) == [3, 8]
    assert widen(sae, torch.tensor([], dtype=torch.long), 0.3) == []
    assert widen(RawNeurons(16, 2), torch.tensor([5]), 0.2) == [5]


@torch.no_grad()
def test_ablated_features_are_zero_and_the_error_stays(study):
    steerer, features = study.steerers["SAE"], [2, 5, 9, 17]
    model, sae = steerer.model, steerer.tower.sae
    expected = []
    for i in range(9):
        pixels = image_processor()(images=[study.pictures["test"].open(i)], return_tensors="pt").pixel_values
        tower = model.vision_model
        x = blocks_by_hand(tower.encoder.layers, tower.pre_layrnorm(tower.embeddings(pixels)))[0]
        x = edited_by_hand(sae, x, [(j, 0.0, "set") for j in features], keep_error=True)
        embedding = model.visual_projection(tower.post_layernorm(x[:1]))[0]
        expected.append(int((steerer.texts @ embedding).argmax()))
    answers = study._answers("SAE", study.clean["test"], features, steerer.texts)
    assert answers.tolist() == expected
    assert study.clean["test"].v.shape == (9, 1, 16), "CLS alone is looked at in the last layer"


def test_mean_latents_are_of_clean_and_of_attacked_pictures(study):
    attacked = study._see(study.pictures["finding"].attacked(write, CLASSES, 4), CLASSES)
    means = study._mean_latents("SAE", attacked)
    sae = study.steerers["SAE"].tower.sae
    assert_close(means[1], torch.stack([sae.encode(v[0]) for v in attacked.v]).mean(0))
    assert_close(study._mean_latents("raw neurons", attacked)[0], study.clean["finding"].v[:, 0].mean(0))


def test_the_best_settings_on_the_validation_pictures_are_those_that_are_tested(study):
    run = study.run(0)
    assert json.loads(json.dumps(run)) == run and run["sweep"]
    assert [row["defence"] for row in run["rows"]] == list(DEFENCES)
    rows = {row["defence"]: row for row in run["rows"]}
    for name in ("SAE", "raw neurons"):
        part = [row for row in run["sweep"] if row["neurons_of"] == name]
        assert len(part) == 5 and part[0]["size"] == 0 and part[0]["tau"] is None
        best = max(row["attacked"] + row["clean"] for row in part)
        sizes = [row["size"] for row in part if row["attacked"] + row["clean"] == best]
        assert run["chosen"][name]["size"] == rows[name]["size"] == min(sizes)
    assert rows["random features"]["size"] <= rows["SAE"]["size"] == rows["prefix and SAE"]["size"]
    assert rows["none"]["size"] == rows["prefix"]["size"] == 0
    again = study.run(0)
    assert again == run and study.run(1)["rows"] != run["rows"]


def test_a_summary_has_means_spreads_and_prices():
    rows = [
        {"seed": seed, "pictures": "p", "defence": name, "size": 3, "attacked": 50.0, "word": 10.0, "clean": clean}
        for seed, none, sae in ((0, 90.0, 88.0), (1, 92.0, 86.0))
        for name, clean in (("none", none), ("SAE", sae))
    ]
    table = summary(pd.DataFrame(rows)).set_index("defence")
    assert table.loc["SAE", "price"] == 4 and table.loc["SAE", "price_spread"] == pytest.approx(8**0.5)
    assert table.loc["none", "price"] == 0 and table.loc["none", "clean"] == 91
    text = typographic.as_markdown(summary(pd.DataFrame(rows)), 2)
    assert "| p | SAE | 3 ± 0 | 50.0 ± 0.0 | 10.0 ± 0.0 | 87.0 ± 1.4 | 4.0 ± 2.8 |" in text


# -------------------------------------------------------------------------------------------------------- the script


@pytest.fixture
def recipe(tmp_path):
    """A recipe of a tiny CLIP, its SAE, labelled pictures and a benchmark, with what to change of it."""
    clip().save_pretrained(tmp_path / "clip")
    image_processor().save_pretrained(tmp_path / "clip")
    tokenizer(16).save_pretrained(tmp_path / "clip")
    sae_for(layer=LAST).save_pretrained(tmp_path / "sae")
    for split, count in (("train", 18), ("test", 6)):
        images = pictures(count, len(split))
        for i in range(count):
            folder = tmp_path / "pictures" / split / images.labels[i]
            folder.mkdir(parents=True, exist_ok=True)
            images.open(i).save(folder / f"{i}.png")
    (tmp_path / "paint").mkdir()
    for i, word in enumerate(("pie", "owl")):
        pictures(1, i).open(0).save(tmp_path / "paint" / f"label=dog_text={word}.png")
    section = {
        "model": f"{tmp_path}/sae", "clip": f"{tmp_path}/clip", "images": f"{tmp_path}/pictures", "split": "train",
        "test_split": "test", "label": "label", "attack": "test_typographic_attack:write", "count": 9, "test_count": 6,
        "validation_count": 6, "template": "a {}", "benchmarks": {"PAINT": f"{tmp_path}/paint"}, "taus": [0.05],
        "lambdas": [0.3, 1.0], "prefix_epochs": 1, "prefix_batch": 9, "seeds": [0, 1], "output": f"{tmp_path}/out",
    }  # fmt: skip

    def run(**changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"typographic": section | changes}))
        command = Typer()
        command.command()(import_module("training.typographic").main)
        return CliRunner().invoke(command, ["--recipe", f"{tmp_path}/recipe.yaml"], env={"COLUMNS": "1000"})

    return run


def test_the_script_writes_tables_and_figures_goes_on_and_names_mistakes(recipe, tmp_path, monkeypatch):
    (tmp_path / "test_typographic_attack.py").write_text(
        "def write(image, word, rng):\n    return image.rotate(90 * len(word))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ended = recipe()
    assert ended.exit_code == 0, ended.output
    out = tmp_path / "out"
    record = json.loads((out / "typographic.json").read_text())
    assert len(record["seeds"]) == 2 and len(record["summary"]) == 2 * len(DEFENCES)
    text = (out / "typographic.md").read_text(encoding="utf-8")
    assert text in ended.output
    for name in ("test", "PAINT"):
        assert all(f"| {name} | {defence} |" in text for defence in DEFENCES)
    paint = [row for row in record["summary"] if row["pictures"] == "PAINT"]
    assert {row["clean"] for row in paint} == {None} and {row["attacked"] for row in paint} <= {0.0, 25, 50, 75, 100}
    for figure in ("sweep.png", "examples.png"):
        assert Image.open(out / figure).width > 300

    seed = json.loads((out / "seed-0.json").read_text())
    seed["rows"][0]["attacked"] = 12.5
    (out / "seed-0.json").write_text(json.dumps(seed))
    assert recipe(seeds=[0]).exit_code == 0
    record = json.loads((out / "typographic.json").read_text())
    assert record["summary"][0]["attacked"] == 12.5, "a finished seed is not run again"

    for changes, message in (
        ({"taus": [0.5]}, "is of another run with other settings (taus"),
        ({"count": 13}, "validation_count must be between 1 and 5"),
        ({"label": "lable"}, "the images have no column 'lable'"),
        ({"images": f"{tmp_path}/paint", "split": "train", "test_split": "train"}, "no column 'label'"),
        ({"attack": None, "fonts": ["none.ttf"]}, "the font none.ttf cannot be read"),
        ({"benchmarks": {"PAINT": f"{tmp_path}/pictures"}}, "must be called label=cup_text=dog.png"),
        ({"model_recipe": f"{RECIPES}/emoji-reader.yaml", "model": "elsewhere"}, "but model is elsewhere"),
    ):
        ended = recipe(**changes)
        assert ended.exit_code == 2 and message in " ".join(ended.output.split()), (changes, ended.output)
        assert "Traceback" not in ended.output
