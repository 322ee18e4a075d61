"""Moran's I against its double sum, and over a stream against single maps."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics.spatial import SpatialCoherence, morans_i


def double_sum(image):
    """The definition, pair by pair."""
    x = image - image.mean()
    top, weights = 0.0, 0
    for (r, c), value in np.ndenumerate(x):
        for (i, j), other in np.ndenumerate(x):
            if (r, c) != (i, j) and abs(r - i) <= 1 and abs(c - j) <= 1:
                top += value * other
                weights += 1
    return x.size / weights * top / (x**2).sum()


@pytest.mark.parametrize("grid", [(4, 5), (1, 6), (3, 3)])
def test_equals_the_double_sum(grid):
    maps = torch.randn(4, *grid, generator=torch.Generator().manual_seed(0)).relu()
    maps[2] += 100
    np.testing.assert_allclose(morans_i(maps), [double_sum(one.double().numpy()) for one in maps], rtol=1e-9)


def test_a_blob_is_coherent_a_chessboard_is_not_and_what_is_flat_is_undefined():
    blob, board = torch.zeros(8, 8), torch.zeros(8, 8)
    blob[2:5, 2:5] = 1
    board[::3, ::3] = 1
    high, low, flat = morans_i(torch.stack([blob, board, torch.full((8, 8), 0.3)]))
    assert high > 0.5 and low < 0 and flat.isnan()


def test_chance_is_a_little_below_zero():
    maps = torch.rand(4000, 4, 4, generator=torch.Generator().manual_seed(0))
    assert morans_i(maps).mean().item() == pytest.approx(-1 / 15, abs=0.01)


@pytest.mark.parametrize("batches", [[7], [3, 4], [1, 0, 6]])
def test_a_stream_is_the_mean_over_the_images_that_count(batches, monkeypatch):
    monkeypatch.setattr("cbsae_hub.metrics.spatial.AT_ONCE", 60)  # three maps at once
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(7, 20, 6, generator=generator).relu()
    dense[:, :, 5] = 0
    dense[:4, 3:, 0] = 0  # on three patches
    dense[2, :, 1] = 1 + torch.rand(20, generator=generator)  # on all
    values, owners = dense.topk(6)
    metric, *others = (SpatialCoherence(6, (4, 5), least_images=4) for _ in batches)
    for shard, part, own in zip([metric, *others], values.split(batches), owners.split(batches)):
        shard.update(part, own)
    for shard in others:
        metric.merge_state(shard)
    found = metric.compute()
    for neuron in range(6):
        maps = [image.double().numpy().reshape(4, 5) for image in dense[:, :, neuron]]
        count = [one for one in maps if 5 <= (one > 0).sum() <= 18]
        assert found.images[neuron] == len(count)
        expected = np.mean([double_sum(one) for one in count]) if len(count) >= 4 else np.nan
        np.testing.assert_allclose(found.score[neuron], expected, rtol=1e-9)
    assert found.score.isnan().tolist() == [True, False, False, False, False, True]


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match=r"expected latents \[images, 20, K\]"):
        SpatialCoherence(6, (4, 5)).update(torch.ones(2, 16, 3), torch.zeros(2, 16, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="at least two patches"):
        morans_i(torch.ones(3, 1, 1))
    with pytest.raises(ValueError, match="NaN or infinite"):
        morans_i(torch.full((1, 2, 2), torch.nan))
