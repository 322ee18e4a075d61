import threading

import pytest

from cbsae_hub.data.ahead import load_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_everything_comes_in_order(threads):
    assert list(load_ahead(lambda item: item**2, range(20), threads)) == [item**2 for item in range(20)]
    assert list(load_ahead(lambda item: item, [], threads)) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_the_next_are_loaded_meanwhile_and_no_more(threads):
    started = []
    reading = load_ahead(started.append, range(20), threads)
    next(reading)
    reading.close()  # waits for what is being loaded
    assert len(started) <= threads + 1

    arrived = [threading.Event() for _ in range(5)]
    for item, _ in enumerate(load_ahead(lambda item: arrived[item].set(), range(5), threads)):
        assert item == 4 or arrived[item + 1].wait(20)


def test_an_error_comes_where_its_result_would_have():
    reading = load_ahead(lambda item: 1 / (item - 2), range(5))
    assert [next(reading), next(reading)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(reading)
