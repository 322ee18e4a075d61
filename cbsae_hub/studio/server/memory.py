"""The memory of the page: things of visitors by keys that nobody guesses, and results by their settings."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Last(Generic[T]):
    """The things that were needed last.

    Args:
        size: Largest number of things; those that nobody has needed for longest are forgotten.
    """

    def __init__(self, size: int):
        self._items: OrderedDict[Hashable, T] = OrderedDict()
        self._size, self._lock = size, Lock()

    def _store(self, key: Hashable, item: T) -> None:
        with self._lock:
            self._items[key] = item
            while len(self._items) > self._size:
                self._items.popitem(last=False)

    def _find(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)


class Memory(_Last[T]):
    """Things by unguessable keys: a visitor's state holds a key, and nobody sees what is another's."""

    def keep(self, item: T) -> str:
        """Keeps a thing and returns its key."""
        key = secrets.token_urlsafe(16)
        self._store(key, item)
        return key

    def get(self, key: Any) -> T | None:
        """Returns the thing of a key, or None if it is unknown or forgotten."""
        return self._find(key) if isinstance(key, str) else None


class Results(_Last[T]):
    """Results of costly work by their settings, which are the same for everybody; None is no result."""

    def of(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns the result of a key, computed if nobody needed it lately."""
        result = self._find(key)
        if result is None:
            result = compute()
            self._store(key, result)
        return result
