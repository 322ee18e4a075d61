"""Against sorting everything, in any order, dense and sparse, whole and in shards."""

import pytest
import torch

from cbsae_hub.metrics.top_images import TopImages, ids_of, keys_of, values_of

N, NEURONS, K = 90, 8, 12


def by_sorting(latents, ids, k):
    """Values and ids of the k strongest, ties by id: python's sort of pairs."""
    values, images = [], []
    for neuron in latents.T.tolist():
        best = sorted(zip(neuron, ids.tolist()), key=lambda pair: (-pair[0], pair[1]))[:k]
        values.append([value for value, _ in best])
        images.append([image for _, image in best])
    return torch.tensor(values), torch.tensor(images)


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(N, NEURONS, generator=generator).mul(4).round().div(4).relu()  # many ties
    latents[:, 0] = 0  # never active
    latents[:, 1] = torch.where(torch.arange(N) % 17 == 3, latents[:, 1] + 1, 0)  # active on fewer images than K
    return latents


@pytest.mark.parametrize("form", ["dense", "sparse", "mixed"])
@pytest.mark.parametrize("k", [1, K, N + 5])
def test_equals_sorting_everything(latents, form, k):
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:N] + 7
    shards = [TopImages(NEURONS, k) for _ in range(3)]
    for index, rows in enumerate(torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(7)):
        sparse = form == "sparse" or form == "mixed" and index % 2
        shards[index % 3].update(latents[rows].to_sparse() if sparse else latents[rows], ids[rows])
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = TopImages(NEURONS, k)
        merged.update(latents[:0], ids[:0])
        for shard in order:
            merged.merge_state(shards[shard])
        values, images = merged.compute()
        expected_values, expected_images = by_sorting(latents, ids, k)
        assert torch.equal(values, expected_values)
        assert torch.equal(images, expected_images)


def test_signed_neurons_rank_below_silent_ones():
    latents = torch.tensor([[-1.0, 2.0], [0.0, -3.0], [0.5, -0.0], [-2.0, 0.0]])
    top = TopImages(2, 4)
    top.update(latents, torch.arange(4))
    values, images = top.compute()
    assert values.tolist() == [[0.5, 0.0, -1.0, -2.0], [2.0, 0.0, 0.0, -3.0]]
    assert images.tolist() == [[2, 1, 0, 3], [0, 2, 3, 1]]


def test_signed_neurons_that_are_not_given_for_every_image_are_refused():
    top = TopImages(2, 3)
    top.update(torch.tensor([[-1.0, 2.0], [0.0, 0.0]]).to_sparse(), torch.arange(2))
    with pytest.raises(ValueError, match="densely"):
        top.compute()


def test_keys_sort_as_activation_then_id_and_can_be_read_back():
    values = torch.tensor([-3.5e38 / 2, -1.0, -1e-45, 0.0, 1e-45, 1.0, 1.0, 3e38])
    ids = torch.tensor([5, 2**32 - 1, 0, 3, 9, 8, 7, 0])
    keys = keys_of(values, ids)
    assert (keys.diff() > 0).all()
    assert torch.equal(values_of(keys), values)
    assert torch.equal(ids_of(keys), ids)


def test_bad_batches_are_refused():
    top = TopImages(2, 3)
    with pytest.raises(ValueError, match=r"\[images, 2\]"):
        top.update(torch.ones(4, 3), torch.arange(4))
    with pytest.raises(ValueError, match="image_ids of 3"):
        top.update(torch.ones(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match="NaN"):
        top.update(torch.full((1, 2), torch.nan), torch.arange(1))
    with pytest.raises(ValueError, match="no images"):
        top.compute()
