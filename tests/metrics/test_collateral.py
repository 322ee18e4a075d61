"""Probes against scikit-learn's ridge, collateral damage by hand, and a planted SAE against its permutation."""

import numpy as np
import pytest
import torch
from planted_concepts import CONCEPTS, Planted
from sklearn.linear_model import Ridge

from cbsae_hub.metrics import ConceptProbes, collateral_damage


@pytest.fixture(scope="module")
def world():
    return Planted()


def probes_of(world, **options):
    metric = ConceptProbes(CONCEPTS, world.x.shape[1], **options)
    for part in torch.arange(len(world.x)).split(130):
        metric.update(world.x[part], world.labels[part])
    return metric.compute()


def test_probes_are_ridge_regressions_in_deviations(world):
    x, labels = world.x.double(), world.labels.double()
    scale = x.var(0, correction=0).mean().item()
    readings = Ridge(0.1 * scale * len(x)).fit(x, labels).predict(x)
    expected = (readings - readings.mean(0)) / readings.std(0)
    np.testing.assert_allclose(probes_of(world, ridge=0.1)(world.x), expected, atol=1e-6)


def test_scores_are_those_counted_by_hand():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 30, 4, generator=generator)
    targets = torch.randint(0, 3, (30,), generator=generator)
    result = collateral_damage(before, after, targets)
    for c in range(3):
        rows = [(b - a).tolist() for a, b, t in zip(before, after, targets) if t == c]
        assert result.effect[c] == pytest.approx(np.mean([row[c] for row in rows]), abs=1e-6)
        others = [[abs(value) for i, value in enumerate(row) if i != c] for row in rows]
        assert result.damage[c] == pytest.approx(np.mean(others), abs=1e-6)
        shares = [[max(value, 0) ** 2 / sum(one**2 for one in row) for value in row] for row in rows]
        assert result.selectivity[c] == pytest.approx(np.mean(shares, 0)[c], abs=1e-6)
        assert result.chance[c] == pytest.approx(np.mean(shares), abs=1e-6)
    assert np.isnan(result.effect[3])


def test_planted_neurons_damage_nothing_and_their_permutation_is_chance(world):
    probes = probes_of(world)
    targets = torch.arange(CONCEPTS).repeat_interleave(10)
    x = world.x[: len(targets)]

    def scored(neurons):
        steered = x + 2.0 * world.sae.W_dec.detach()[neurons][targets]
        return collateral_damage(probes(x), probes(steered), targets)

    planted = scored(world.order)
    np.testing.assert_allclose(planted.selectivity, 1, atol=1e-4)
    assert planted.damage.max() < 0.01 and planted.effect.min() > 1
    permuted = scored(world.order.roll(1))
    assert permuted.selectivity.max() < 0.01 and permuted.chance.mean() == pytest.approx(1 / CONCEPTS, abs=0.01)
    spare = [n for n in range(20) if n not in world.order.tolist()]
    nonsense = scored(torch.tensor(spare).repeat(2)[:CONCEPTS])
    assert nonsense.selectivity.mean() == pytest.approx(nonsense.chance.mean(), abs=0.08)


def test_what_cannot_be_scored_is_refused_and_silence_scores_zero():
    readings = torch.zeros(2, 3)
    assert collateral_damage(readings, readings, torch.tensor([0, 1])).selectivity[:2].tolist() == [0, 0]
    with pytest.raises(ValueError, match="targets are numbers of concepts, from 0 to 2"):
        collateral_damage(readings, readings, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="two concepts at least"):
        collateral_damage(readings[:, :1], readings[:, :1], torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="that do not differ"):
        probes = ConceptProbes(1, 2)
        probes.update(torch.ones(5, 2), torch.ones(5, 1))
        probes.compute()
