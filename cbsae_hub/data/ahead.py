"""Reading ahead: what comes next is loaded while the last is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def load_ahead(load: Callable[[Item], Loaded], items: Iterable[Item], threads: int = 1) -> Generator[Loaded]:
    """Yields ``load(item)`` for every item, in order, while ``threads`` threads load as many of the next ones.

    An error in ``load`` is raised where its result would have come.
    """
    pending: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(load, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
