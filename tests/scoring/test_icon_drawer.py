"""Drawn icons are what unCLIP draws of each neuron alone; what was drawn before a kill is not drawn again."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from steerable_models import pictures, sae_for, unclip

from cbsae_hub.scoring import Scores, icon_drawer
from cbsae_hub.scoring.icon_drawer import IconDrawer
from cbsae_hub.steering import Edit, Steering, UnclipSteerer

P99 = [2.0, np.nan, 1.0, 3.0, 0.5, 4.0]
FIRES = [0, 2, 3, 4, 5]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(icon_drawer, "STEPS", 3)


@pytest.fixture(scope="module")
def steerer():
    return UnclipSteerer(unclip(), sae_for())


def scores(**steerability):
    status = ["dead" if np.isnan(p99) else "alive" for p99 in P99]
    frame = pd.DataFrame({"neuron": range(6), "status": status, "p99": P99})
    return Scores(frame, None, {"model": {"revision": "sha256:1"}, **steerability})


@pytest.mark.parametrize(
    ("measured", "value", "guidance"),
    [
        ({}, lambda p99: 4 * p99, 10.0),
        ({"alpha": 50.0, "unit": "absolute", "guidance": 2.5}, lambda p99: 50.0, 2.5),
        ({"alpha": 8.0, "unit": "p99", "guidance": None}, lambda p99: 8 * p99, 10.0),
    ],
)
def test_each_neuron_is_drawn_alone(steerer, tmp_path, measured, value, guidance):
    of = scores(**({"steerability": measured} if measured else {}))
    drawn = IconDrawer(steerer).draw(of, tmp_path / ".icons")
    assert list(drawn) == FIRES
    for neuron in FIRES:
        alone = Steering([Edit(neuron, value(P99[neuron]))], isolate=True)
        picture = steerer.generate(pictures(1), alone, [0], num_inference_steps=3, guidance_scale=guidance)[0]
        icon = Image.open(io.BytesIO(drawn[neuron])).convert("RGB")
        expected = picture.resize(icon.size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(icon, int) - np.asarray(expected, int)).mean() < 8, "WebP is lossy"
    settings = IconDrawer(steerer).settings(of)
    assert settings["guidance"] == guidance and settings["unclip"] == {"id": None, "revision": None}


def test_drawings_that_are_there_are_not_drawn_again(steerer, tmp_path, monkeypatch):
    monkeypatch.setattr(icon_drawer, "CHUNK", 2)
    drawn, draw = [], steerer.draw
    monkeypatch.setattr(steerer, "draw", lambda embeds, *rest: drawn.append(len(embeds)) or draw(embeds, *rest))
    drawer, partial = IconDrawer(steerer), tmp_path / ".icons"
    whole = drawer.draw(scores(), partial)
    assert drawn == [2, 2, 1]
    (partial / "0000002.parquet").unlink()
    assert drawer.draw(scores(), partial) == whole and drawn == [2, 2, 1, 2]
    other = drawer.draw(scores(steerability={"alpha": 9.0, "unit": "absolute", "guidance": 3.0}), partial)
    assert other.keys() == whole.keys() and other != whole and len(drawn) == 7, "of other settings: begun anew"
