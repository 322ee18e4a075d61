"""Steerability against cosines by numpy, pair by pair."""

import numpy as np
import pandas as pd
import pytest
import torch

from cbsae_hub.metrics.normalise import image_to_unit_interval, text_to_unit_interval
from cbsae_hub.metrics.steerability import (
    correlation_of_generators,
    first_word,
    image_steerability,
    text_steerability,
)


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Pizza.", "pizza"),
        ("  a dog", "a"),
        ('"Ice-cream" is shown', "ice-cream"),
        ("... cat", "cat"),
        ("", ""),
        ("!? -", ""),
        ("tree\nhouse", "tree"),
    ],
)
def test_first_word(answer, word):
    assert first_word(answer) == word


def test_text_score_is_the_cosine_of_each_pair():
    said, meant = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    said[3] = 0
    expected = [cosine(a, b) for a, b in zip(said.numpy(), meant.numpy()) if a.any()]
    found = text_steerability(said, meant)
    assert found[3] == 0
    np.testing.assert_allclose(np.delete(found.numpy(), 3), expected, rtol=1e-5)


def test_image_score_is_the_mean_cosine_of_all_pairs():
    generator = torch.Generator().manual_seed(1)
    drawn, images = torch.randn(4, 3, 6, generator=generator), torch.randn(4, 5, 6, generator=generator)
    images[1, 2:] = 0  # a neuron that is active on two images
    images[2] = 0  # and one that is on none
    found = image_steerability(drawn, images).numpy()
    for neuron, there in enumerate((5, 2, 0, 5)):
        pairs = [cosine(d, i) for d in drawn[neuron].numpy() for i in images[neuron, :there].numpy()]
        np.testing.assert_allclose(found[neuron], np.mean(pairs) if pairs else np.nan, rtol=1e-5)


def test_unit_intervals():
    np.testing.assert_allclose(text_to_unit_interval(np.array([-0.2, 0.0, 0.7])), [0, 0, 0.7])
    np.testing.assert_allclose(image_to_unit_interval(np.array([-1.0, 0.0, 0.3])), [0, 0.5, 0.65])


@pytest.mark.parametrize("shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((3,), (3,))])
def test_forms_must_fit(shapes):
    with pytest.raises(ValueError, match="expected two"):
        text_steerability(*(torch.ones(s) for s in shapes))
    with pytest.raises(ValueError, match="expected"):
        image_steerability(*(torch.ones(s) for s in shapes))


def test_generators_correlate_concept_by_concept():
    rng = np.random.default_rng(0)
    names = ["a", "b", "c", "d", "e", "a", "b", None, "f"]
    frame = pd.DataFrame({"name": names, "text": rng.random(9), "image": rng.random(9)})
    frame.loc[8, "image"] = np.nan  # not drawn
    frame["designated"] = [None] * 4 + ["z"] + [None] * 4  # neuron 4 was trained for another concept than its name
    by_hand = {
        "a": [(frame["text"][i], frame["image"][i]) for i in (0, 5)],
        "b": [(frame["text"][i], frame["image"][i]) for i in (1, 6)],
        **{name: [(frame["text"][i], frame["image"][i])] for name, i in (("c", 2), ("d", 3), ("z", 4))},
    }
    pairs = np.array([np.mean(values, axis=0) for values in by_hand.values()])
    found = correlation_of_generators(frame, "text", "image")
    assert found["concepts"] == 5
    assert found["correlation"] == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    r = found["correlation"]
    t = r * np.sqrt(3 / (1 - r**2))
    x = np.linspace(-400, 400, 400_001)  # Student's t with three degrees of freedom, integrated
    density = 2 / (np.pi * np.sqrt(3) * (1 + x**2 / 3) ** 2)
    assert found["p"] == pytest.approx(density[np.abs(x) >= abs(t)].sum() * (x[1] - x[0]), abs=1e-3)


@pytest.mark.parametrize("rows", [2, 5])
def test_a_correlation_of_nothing_is_undefined(rows):
    frame = pd.DataFrame({"name": list("abcde"), "text": 0.5, "image": np.arange(5.0)}).head(rows)
    assert np.isnan(correlation_of_generators(frame, "text", "image")["correlation"])
