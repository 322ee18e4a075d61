"""Maps and boxes, pixel by pixel and pair by pair."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics import Localisation, box_cover, localisation

GRID = (3, 4)


def test_covers_are_those_of_pixels():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, 2, generator=generator).sort(1).values.mul(120).round().div(120)
    boxes = corners.flatten(1)
    for box, cover in zip(boxes.tolist(), box_cover(boxes, GRID)):
        pixels = np.zeros((120, 120))
        left, upper, right, lower = (round(120 * one) for one in box)
        pixels[upper:lower, left:right] = 1
        np.testing.assert_allclose(cover, pixels.reshape(3, 40, 4, 30).mean((1, 3)), atol=1e-6)
    with pytest.raises(ValueError, match="ends before it begins"):
        box_cover(torch.tensor([[0.5, 0.0, 0.4, 1.0]]), GRID)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(50, *GRID, generator=generator).mul(2).round()
    maps[:3] = -1.0  # silent
    corners = torch.rand(50, 2, 2, generator=generator).sort(1).values
    return maps, box_cover(corners.flatten(1), GRID), torch.arange(50) % 3


def test_scores_and_chance_are_those_of_every_pair(data):
    maps, cover, targets = data
    metrics = [Localisation(4, 12) for _ in "ab"]
    for number, part in enumerate(torch.arange(50).split(13)):
        metrics[number % 2].update(maps[part], cover[part], targets[part])
    metrics[0].merge_state(metrics[1])
    scores = metrics[0].compute()

    def one(m, c):
        m, c = m.clamp_min(0).flatten().double().numpy(), c.flatten().numpy()
        strongest = [c[i] >= 0.5 for i in range(12) if m[i] == m.max()]
        return (m * c).sum() / m.sum(), np.mean(strongest)

    for concept in range(3):
        own = [i for i in range(50) if targets[i] == concept]
        fires = [i for i in own if (maps[i] > 0).any()]
        pairs = np.array([[one(maps[i], cover[j]) for j in fires] for i in fires])
        share, pointing = pairs[range(len(fires)), range(len(fires))].mean(0)
        assert (scores.share[concept], scores.pointing[concept]) == pytest.approx((share, pointing))
        chances = scores.share_chance[concept], scores.pointing_chance[concept]
        assert chances == pytest.approx(tuple(pairs.mean((0, 1))))
        assert scores.fires[concept] == len(fires) / len(own)
    assert np.isnan([scores.share[3], scores.fires[3]]).all()


def test_a_neuron_that_fires_in_the_box_scores_one_and_one_that_does_not_scores_nothing(data):
    *_, targets = data
    inside = torch.zeros(50, *GRID)
    inside[torch.arange(50), torch.arange(50) % 3, torch.arange(50) % 4] = 1.0
    right, wrong = localisation(2 * inside, inside, targets, 3), localisation(1 - inside, inside, targets, 3)
    assert (right.share == 1).all() and (right.pointing == 1).all() and (right.share_chance < 0.4).all()
    assert (wrong.share == 0).all() and (wrong.pointing == 0).all()
    everywhere = localisation(torch.ones(50, *GRID), inside, targets, 3)
    np.testing.assert_allclose(everywhere.share, everywhere.share_chance)
    with pytest.raises(ValueError, match="targets are numbers of concepts, from 0 to 1"):
        localisation(inside, inside, targets, 2)
