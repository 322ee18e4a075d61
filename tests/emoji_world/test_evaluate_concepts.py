"""Drawings of concept neurons, against a steerer asked one by one and an interval of scipy's."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from scipy.stats import binomtest
from steerable_models import cbsae_for, pictures, sae_for, unclip

from cbsae_hub.models import folder_revision
from cbsae_hub.pictures import white_image
from cbsae_hub.steering import Edit, Steering, UnclipSteerer
from training.emoji_world import evaluate, evaluate_concepts
from training.emoji_world.evaluate_concepts import Artist, Drawings, Neurons

OBJECTS = ["pizza", "left", "night"]  # of the concepts of cbsae_for, without "red"


def brightness(drawings):
    return [OBJECTS[int(np.asarray(drawing).mean()) % 3] for drawing in drawings]


@pytest.fixture(scope="module")
def steerer():
    return UnclipSteerer(unclip(), cbsae_for())


def test_every_drawing_is_that_of_its_neuron_and_seed(steerer, monkeypatch):
    monkeypatch.setattr(evaluate_concepts, "BATCH", 4)
    artist = Artist(SimpleNamespace(answers=brightness), [3, 8, 9], steps=2, guidance=2.0)
    neurons = Neurons(steerer, [32, 34, 5], OBJECTS)
    for mode, isolate in (("white picture", False), ("alone", True)):
        drawn = artist.draw(neurons, mode, 20.0)
        for row, answers, neuron in zip(drawn.pictures, drawn.answers, neurons.ids, strict=True):
            steering = Steering([Edit(neuron, 20.0)], isolate=isolate)
            alone = steerer.generate([white_image()], steering, [3, 8, 9], num_inference_steps=2, guidance_scale=2.0)
            for one, other in zip(row, alone, strict=True):
                assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
            assert answers == brightness(row)
    controls = artist.draw(neurons, "alone", 20.0, random=True).pictures
    flat = {np.asarray(one).tobytes() for row in [*controls, *drawn.pictures] for one in row}
    assert len(flat) == 18, "controls are drawn from directions of their own"


def test_shares_and_intervals():
    drawn = Drawings(["a", "b"], [[], []], [["a", "b", "a", "a"], ["a", "b", "a", "a"]])
    assert drawn.share == 50.0
    for right, count in ((0, 28), (3, 28), (28, 28), (400, 424)):
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert evaluate_concepts.wilson(100 * right / count, count) == pytest.approx(
            (100 * expected.low, 100 * expected.high), abs=1e-9
        )


def test_the_strength_is_the_weakest_of_the_best():
    shares = {0.25: 0, 0.5: 25, 1.0: 75, 1.5: 75, 2.0: 50, 3.0: 0}

    def draw(neurons, mode, strength):
        return SimpleNamespace(share=shares[strength / 50] * (1 if mode == "alone" else 0.5))

    best, rows = evaluate_concepts.choose_strength(SimpleNamespace(draw=draw), None, 50.0)
    assert best == 50.0 and [row["alone"] for row in rows] == list(shares.values())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A tiny CB-SAE, its SAE, a pipeline, and a judge with weights."""
    cbsae_for().save_pretrained(tmp_path / "cbsae")
    sae_for(d_sae=64).save_pretrained(tmp_path / "sae")
    unclip().save_pretrained(tmp_path / "unclip")
    truth = {"neuron": range(4), "name": [*OBJECTS, "red"], "truth_family": "concept", "truth_agrees": [True] * 4}
    scores = {"steerability": {"unclip": "unclip", "alpha": 50, "steps": 1, "guidance": 2.0}}
    pack = SimpleNamespace(info={"scores": scores}, neurons=SimpleNamespace(frame=pd.DataFrame(truth)))

    def images(batch):
        return F.normalize(torch.tensor(np.stack([np.asarray(one).mean((0, 1)) for one in batch])).float(), dim=-1)

    def texts(lines):
        axes = [next((i for i, name in enumerate(OBJECTS) if name in line), 0) for line in lines]
        return F.one_hot(torch.tensor(axes), 3).float()

    judge = SimpleNamespace(embed_images=images, embed_texts=texts)
    monkeypatch.setattr(evaluate, "concept_names", lambda: OBJECTS)
    monkeypatch.setattr(evaluate_concepts.Pack, "from_pretrained", lambda folder: pack)
    monkeypatch.setattr(evaluate_concepts.ClipLike, "from_pretrained", lambda folder, device: judge)
    monkeypatch.setattr(evaluate_concepts, "FACTORS", (0.5, 1.0))
    return SimpleNamespace(folder=tmp_path, scores=scores, judge=judge)


def test_all_is_written(hub, capsys):
    model, sae, pipeline = (hub.folder / name for name in ("cbsae", "sae", "unclip"))
    evaluate_concepts.main(model, sae, pipeline, judge=sae, seeds=2, compared=3)
    content = json.loads((model / "concepts.json").read_text())
    assert content["revision"] == folder_revision(model) and content["unclip"] == folder_revision(pipeline)
    assert content["no objects"] == ["red"]
    concepts = content["concepts"]
    assert [(one["concept"], one["neuron"]) for one in concepts] == [("pizza", 32), ("left", 34), ("night", 35)]
    best = content["strengths"]["chosen"]
    strengths = list(dict.fromkeys((50.0, best)))
    rows = {(row["neurons"], row["mode"], row["strength"]): row for row in content["rows"]}
    kinds, modes = (evaluate_concepts.CONCEPTS, evaluate_concepts.OBJECTS), evaluate_concepts.MODES
    assert list(rows) == [(kind, mode, strength) for kind in kinds for mode in modes for strength in strengths]
    for mode in modes:
        row = rows[kinds[0], mode, 50.0]
        right = np.mean([answer == one["concept"] for one in concepts for answer in one[mode]])
        assert row["right"] == pytest.approx(100 * right) and (row["count"], row["drawings"]) == (3, 6)
        assert row["random_low"] <= row["random"] <= row["random_high"]
    assert rows[kinds[1], "alone", 50.0]["count"] == 1, "the other two have chosen the strength"
    assert capsys.readouterr().out.startswith("| neurons | mode | strength | drawings | recognised, % |")
    assert Image.open(model / "concepts.png").width > 500


def test_what_is_missing_is_explained(hub, monkeypatch):
    model, sae, pipeline = (hub.folder / name for name in ("cbsae", "sae", "unclip"))
    arguments = {"sae": sae, "unclip": pipeline, "judge": sae, "seeds": 1, "compared": 3}
    monkeypatch.setattr(evaluate, "concept_names", lambda: ["owl"])
    with pytest.raises(typer.BadParameter, match="none of the concepts of .* is an object of Emoji World"):
        evaluate_concepts.main(model, **arguments)
    hub.scores["steerability"] = {}
    with pytest.raises(typer.BadParameter, match="no steerability through pictures: score it with --steer first"):
        evaluate_concepts.main(model, **arguments)


def test_the_sheet_marks_what_is_right():
    few = pictures(2)
    figure = evaluate_concepts.sheet_of({"alone": Drawings(["owl", "dog"], [[few[0]], [few[1]]], [["owl"], ["cat"]])})
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in texts if text] == ["✓ owl", "cat"]
