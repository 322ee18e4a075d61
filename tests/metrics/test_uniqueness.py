"""Against looking at every pair."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from cbsae_hub.metrics import uniqueness
from cbsae_hub.metrics.uniqueness import Uniqueness, overlaps

K, NEURONS, IMAGES = 4, 30, 25


def by_pairs(sets):
    counts, nearest = np.zeros(K + 1, dtype=int), {neuron: 0.0 for neuron in sets}
    for a, b in combinations(sets, 2):
        shared = len(sets[a] & sets[b])
        counts[shared] += 1
        jaccard = shared / len(sets[a] | sets[b])
        nearest[a], nearest[b] = max(nearest[a], jaccard), max(nearest[b], jaccard)
    return counts, nearest


@pytest.mark.parametrize("block", [7, 8192])
def test_equals_every_pair(block, monkeypatch):
    monkeypatch.setattr(uniqueness, "NEURON_BLOCK", block)
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(1000 + np.arange(IMAGES))[:K] for _ in range(NEURONS)])
    ids[5], ids[6] = ids[4][::-1], [7, 8, 9, 10]  # one twice, and one apart from all others
    complete = torch.ones(NEURONS, dtype=torch.bool)
    complete[[0, 17]] = False
    found = overlaps(torch.from_numpy(ids), complete)
    sets = {neuron: set(ids[neuron].tolist()) for neuron in range(NEURONS) if complete[neuron]}
    counts, nearest = by_pairs(sets)
    assert found.pairs.tolist() == counts.tolist()
    assert found.left_out == 2 and np.isnan(found.nearest[[0, 17]]).all()
    for neuron, expected in nearest.items():
        assert found.nearest[neuron] == pytest.approx(expected)
        partner = found.partner[neuron]
        if expected:
            assert len(sets[neuron] & sets[partner]) / len(sets[neuron] | sets[partner]) == pytest.approx(expected)
        else:
            assert partner == -1
    assert found.partner[4] == 5 and found.nearest[6] == 0
    jaccards = [len(a & b) / len(a | b) for a, b in combinations(sets.values(), 2)]
    assert found.mean() == pytest.approx(np.mean(jaccards))
    assert found.share_above(0) == pytest.approx(np.mean(np.array(jaccards) > 0))
    assert found.share_above(0.5) == pytest.approx(np.mean(np.array(jaccards) > 0.5))


def test_from_a_stream_neurons_with_too_few_active_images_are_left_out():
    latents = torch.rand(IMAGES, 5, generator=torch.Generator().manual_seed(0))
    latents[:, 1] = 0
    latents[3:, 2] = 0  # active on three images
    metric = Uniqueness(5, K)
    for rows in torch.arange(IMAGES).split(6):
        metric.update(latents[rows].to_sparse(), rows)
    found = metric.compute()
    sets = {neuron: set(latents[:, neuron].topk(K).indices.tolist()) for neuron in (0, 3, 4)}
    assert found.pairs.tolist() == by_pairs(sets)[0].tolist()
    assert found.left_out == 2


def test_without_pairs_shares_are_undefined():
    metric = Uniqueness(3, K)
    metric.update(torch.ones(2, 3), torch.arange(2))
    found = metric.compute()
    assert found.left_out == 3 and found.pairs.sum() == 0
    assert math.isnan(found.mean()) and math.isnan(found.share_above(0))
