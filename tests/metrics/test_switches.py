"""Switches counted one by one, their chance by permutations, and a planted SAE against its permutation."""

import numpy as np
import pytest
import torch
from planted_concepts import Planted

from cbsae_hub.metrics import Switches, switches


@pytest.fixture(scope="module")
def random_pairs():
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(50, 4, generator=generator) < 0.5 for _ in range(2))
    return before, after, torch.randint(-1, 2, (50, 4), generator=generator)


def test_scores_are_those_counted_by_hand(random_pairs):
    before, after, changes = random_pairs
    result = switches(*random_pairs)
    for c in range(4):
        turned = [int(b) - int(a) for a, b in zip(before[:, c], after[:, c])]
        truth = changes[:, c].tolist()
        right = sum(t != 0 and s == t for s, t in zip(turned, truth))
        changed, switched = sum(t != 0 for t in truth), sum(s != 0 for s in turned)
        assert result.changes[c] == changed
        assert result.right[c] == pytest.approx(right / changed)
        assert result.precise[c] == pytest.approx(right / switched)
        assert result.score[c] == pytest.approx(2 / (changed / right + switched / right))
        still = [s == 0 for s, t in zip(turned, truth) if t == 0]
        assert result.still[c] == pytest.approx(np.mean(still))


def test_chance_is_the_mean_of_permutations(random_pairs):
    before, after, changes = random_pairs
    orders = [torch.randperm(50, generator=torch.Generator().manual_seed(i)) for i in range(500)]
    shuffled = np.mean([switches(before[order], after[order], changes).score for order in orders], 0)
    np.testing.assert_allclose(switches(*random_pairs).chance, shuffled, atol=0.02)


def test_planted_neurons_switch_alone_and_their_permutation_by_chance():
    world = Planted()
    on = [world.latents(x)[:, world.order] > 0 for x in (world.before, world.after)]
    result = switches(*on, world.changes)
    for scores in (result.right, result.precise, result.still, result.score):
        np.testing.assert_allclose(scores, 1)
    moved = [part.roll(1, dims=1) for part in on]  # each concept gets another's neuron
    permuted = switches(*moved, world.changes)
    assert permuted.score.mean() == pytest.approx(permuted.chance.mean(), abs=0.05) and permuted.score.mean() < 0.1


def test_edge_cases_and_refusals():
    silent = torch.zeros(3, 2, dtype=torch.bool)
    result = switches(silent, silent, torch.tensor([[1, 0], [-1, 0], [0, 0]]))
    assert result.score[0] == 0 and np.isnan(result.score[1]) and np.isnan(result.precise).all()
    with pytest.raises(ValueError, match=r"must each be \[pairs, 2\]"):
        Switches(2).update(silent, silent[:, :1], silent.long())
    with pytest.raises(ValueError, match="a change is 1"):
        switches(silent, silent, torch.full((3, 2), 2))
