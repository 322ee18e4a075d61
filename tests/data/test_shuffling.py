import numpy as np
import pytest
from scipy.stats import spearmanr

from cbsae_hub.data.shuffling import RUN, ShuffledOrder


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000, 5000, 5121])
@pytest.mark.parametrize("in_memory", [1, 600, 2048, 10**6])
def test_every_row_comes_once_wherever_one_enters(n, in_memory):
    order = ShuffledOrder(n, in_memory, seed=1, epoch=2)
    whole = order.rows(0, n)
    assert sorted(whole) == list(range(n))
    again = ShuffledOrder(n, in_memory, seed=1, epoch=2)
    for start in (n - 1, n // 2, 0):
        np.testing.assert_array_equal(again.rows(start, min(n, start + 77)), whole[start : start + 77])


def test_epochs_and_seeds_differ():
    orders = [ShuffledOrder(5000, 1000, seed, epoch).rows(0, 5000) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (orders[a] == orders[b]).mean() < 0.01


@pytest.mark.parametrize("in_memory", [50_000, 10**6])
def test_order_has_no_trend(in_memory):
    rows = ShuffledOrder(100_000, in_memory, 0, 0).rows(0, 100_000)
    assert abs(spearmanr(np.arange(len(rows)), rows).statistic) < 0.05
    neighbours = np.abs(np.diff(rows)) == 1
    assert neighbours.mean() < 20 * RUN / in_memory
