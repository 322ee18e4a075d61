"""Against the definitions, pair by pair and concept by concept."""

from itertools import combinations

import numpy as np
import pytest
import torch

from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.metrics import hierarchy
from cbsae_hub.metrics.hierarchy import CommonAncestorDepth, HierarchyScore, common_ancestor_depth, common_kinds

CONCEPTS = ["cat", "cod", "corgi", "owl", "pizza", "pug", "tuna"]
TREE = ConceptTree.from_edges(
    [("thing", "animal"), ("thing", "food"), ("animal", "pet"), ("animal", "fish"), ("food", "fish"), ("pet", "dog"),
     ("pet", "cat"), ("fish", "tuna"), ("fish", "cod"), ("food", "pizza"), ("animal", "owl"), ("dog", "corgi"),
     ("dog", "pug")]
)  # fmt: skip
N, NEURONS, K = 60, 9, 6


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.random((N, len(CONCEPTS))) < 0.2  # none, one or several an image
    latents = torch.from_numpy(np.maximum(rng.normal(size=(N, NEURONS)) - 0.2, 0)).float()
    latents[:, 0] = 0
    latents[:, 1] = torch.from_numpy(labels[:, [2, 5]].any(1) * rng.random(N)).float()  # dogs
    latents[5:, 2] = 0
    return latents, labels


def test_common_kinds_by_hand():
    covered = np.zeros((5, 7), dtype=bool)
    covered[1, [2, 5]] = True  # both dogs
    covered[2, [0, 2]] = True  # cat and corgi: pets, of which there are three
    covered[3, [3]] = True  # one concept is no class
    covered[4, :4] = True  # more than half of all
    found = common_kinds(covered, TREE, CONCEPTS)
    assert found.kind == [None, "dog", "pet", None, None]
    np.testing.assert_allclose(found.height, [np.nan, 1, 1.5, np.nan, np.nan])
    np.testing.assert_allclose(found.coverage, [np.nan, 1, 2 / 3, np.nan, np.nan])
    assert found.concepts.tolist() == [0, 2, 2, 1, 4]


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_neuron_covers_what_it_is_active_on_in_most_images(data, form):
    latents, labels = data
    shards = HierarchyScore(NEURONS, TREE, CONCEPTS), HierarchyScore(NEURONS, TREE, CONCEPTS)
    for index, rows in enumerate(torch.arange(N).split(7)):
        given = latents[rows].to_sparse() if form == "sparse" else latents[rows]
        shards[index % 2].update(given, torch.from_numpy(labels)[rows])
    shards[1].merge_state(shards[0])
    fires = latents.numpy() > 0
    covered = np.array([[fires[labels[:, c], j].mean() >= 0.5 for c in range(7)] for j in range(NEURONS)])
    found, expected = shards[1].compute(), common_kinds(covered, TREE, CONCEPTS)
    assert found.kind == expected.kind and found.kind[1] == "dog"
    np.testing.assert_array_equal(found.height, expected.height)
    assert found.concepts.tolist() == covered.sum(1).tolist()


def by_pairs(images, labels):
    """Mean over pairs of images of the depth of the deepest kind that a concept of each shares."""
    depths = []
    for a, b in combinations(images, 2):
        meet = [
            max(TREE.depth(n) for n in set(TREE.ancestors(CONCEPTS[i])) & set(TREE.ancestors(CONCEPTS[j])))
            for i in np.flatnonzero(labels[a])
            for j in np.flatnonzero(labels[b])
        ]
        depths += [max(meet)] if meet else []
    return np.mean(depths) if depths else np.nan


@pytest.mark.parametrize("block", [2, 512])
def test_ancestor_depth_is_the_mean_over_pairs_of_top_images(data, block, monkeypatch):
    monkeypatch.setattr(hierarchy, "NEURON_BLOCK", block)
    latents, labels = data
    metric = CommonAncestorDepth(NEURONS, TREE, CONCEPTS, K)
    for rows in torch.randperm(N, generator=torch.Generator().manual_seed(1)).split(11):
        metric.update(latents[rows].to_sparse(), torch.from_numpy(labels)[rows], 100 + rows)
    found = metric.compute()
    for neuron in range(NEURONS):
        values, order = latents[:, neuron].sort(descending=True, stable=True)
        top = [i for i, value in zip(order[:K].tolist(), values[:K]) if value > 0]
        assert found[neuron] == pytest.approx(by_pairs(top, labels), nan_ok=True), neuron
    assert np.isnan(found[0]) and found[1] > np.nanmean(found)


def test_one_image_has_no_pair():
    assert np.isnan(common_ancestor_depth(np.array([[[0], [-1]]]), TREE.common_depths(CONCEPTS)))
