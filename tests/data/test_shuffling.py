import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from cbsae_hub.data.shuffling import RUN, ShuffledOrder

sizes = st.sampled_from([1, RUN - 1, RUN, RUN + 1, 20 * RUN, 20 * RUN + 1]) | st.integers(1, 6000)
memories = st.sampled_from([1, 2 * RUN, 10**6]) | st.integers(1, 8000)
seeds = st.integers(0, 2**32)


@given(sizes, memories, seeds, st.integers(0, 1000))
@settings(deadline=None)
def test_every_row_comes_once(n, in_memory, seed, epoch):
    np.testing.assert_array_equal(np.sort(ShuffledOrder(n, in_memory, seed, epoch).rows(0, n)), np.arange(n))


@given(sizes, memories, seeds, st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_order_is_the_same_wherever_one_enters_and_however_one_cuts(n, in_memory, seed, cuts):
    whole = ShuffledOrder(n, in_memory, seed, 0).rows(0, n)
    order, places = ShuffledOrder(n, in_memory, seed, 0), sorted({0, n, *(int(cut * n) for cut in cuts)})
    pieces = [order.rows(start, stop) for start, stop in zip(places, places[1:])]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    for start, stop in reversed(list(zip(places, places[1:]))):
        np.testing.assert_array_equal(order.rows(start, stop), whole[start:stop])
    assert len(order.rows(places[-1], n)) == 0


@given(st.integers(3 * RUN, 6000), st.integers(2 * RUN, 6000), seeds)
@settings(deadline=None)
def test_rows_of_a_run_come_within_one_buffer(n, in_memory, seed):
    """So that a run is read once, and no more than half of the memory is needed at a time."""
    place = np.argsort(ShuffledOrder(n, in_memory, seed, 0).rows(0, n))
    buffer = n if n <= in_memory else in_memory // 2 // RUN * RUN
    for start in range(0, n, RUN):
        assert len(set(place[start : start + RUN] // buffer)) == 1


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
