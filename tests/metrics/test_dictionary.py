"""Redundancy and stability against loops over pairs, permutations and least squares."""

from itertools import permutations

import numpy as np
import pytest
import torch

from cbsae_hub.metrics.dictionary import moved, redundancy, seed_stability


def rows(seed, count=6, width=4):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * (1 + torch.arange(count))[:, None]


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("at_once", [2, 100])
def test_redundancy_is_the_largest_cosine_with_another(at_once, monkeypatch):
    monkeypatch.setattr("cbsae_hub.metrics.dictionary.ROWS_AT_ONCE", at_once)
    mine = rows(0)
    expected = [max(cosine(a, b) for j, b in enumerate(mine) if j != i) for i, a in enumerate(mine)]
    np.testing.assert_allclose(redundancy(mine), expected, rtol=1e-5)
    assert redundancy(mine[:1]).isnan().tolist() == [True]


def test_neurons_are_matched_as_the_best_of_all_permutations():
    mine, others = rows(0), [rows(1), rows(2)]
    expected = np.zeros(6)
    for other in others:
        table = np.array([[cosine(a, b) for b in other] for a in mine])
        best = max(permutations(range(6)), key=lambda order: sum(table[i, j] for i, j in enumerate(order)))
        expected += [table[i, j] / 2 for i, j in enumerate(best)]
    found = seed_stability(mine, others, threshold=0.8, alike=2)
    np.testing.assert_allclose(found.cosine, expected, rtol=1e-6)
    has = np.array([[any(cosine(a, b) >= 0.8 for b in other) for other in others] for a in mine])
    np.testing.assert_allclose(found.share, has.mean(1))
    assert 0 < has.mean() < 1
    inside = []
    for a in mine.double():
        parts = []
        for other in others:
            nearest = sorted(other.double(), key=lambda b: -abs(cosine(a, b)))[:2]
            basis = torch.stack(nearest, 1)
            weights = torch.linalg.lstsq(basis, (a / a.norm())[:, None]).solution
            parts.append((basis @ weights).norm().item())
        inside.append(np.mean(parts))
    np.testing.assert_allclose(found.subspace, inside, rtol=1e-6)


def test_a_shuffled_copy_is_the_same_and_a_mirrored_one_is_not():
    mine = rows(3, 10, 8)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    same = seed_stability(mine, [3 * mine[order]])
    torch.testing.assert_close(torch.stack(same), torch.ones(3, 10, dtype=torch.float64))
    assert (seed_stability(mine, [-mine]).cosine < 0.9).all()


def test_neurons_of_a_shared_plane_have_a_subspace_without_having_partners():
    turned = torch.tensor([[1.0, 1.0, 0], [1.0, -1.0, 0]])
    found = seed_stability(torch.eye(3)[:2], [turned], threshold=0.9, alike=2)
    torch.testing.assert_close(found.subspace, torch.ones(2, dtype=torch.float64))
    assert found.share.sum() == 0


def test_a_smaller_dictionary_leaves_neurons_over():
    mine = torch.eye(4)
    found = seed_stability(mine, [mine[:3]], alike=1)
    assert found.cosine.tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="one width"):
        seed_stability(mine, [torch.eye(3)])
    with pytest.raises(ValueError, match="other seeds"):
        seed_stability(mine, [])


def test_the_way_from_the_start():
    start = torch.eye(3)
    end = torch.tensor([[2.0, 0, 0], [1.0, 1, 0], [0, 0, -1.0]])
    np.testing.assert_allclose(moved(end, start), [0, 1 - 0.5**0.5, 2], atol=1e-7)
