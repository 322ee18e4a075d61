"""The memory of the page: things of visitors by keys that nobody guesses, and results by their settings."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Memory(Generic[T]):
    """The last few things by unguessable keys: a visitor's state holds a key, and nobody sees what is another's.

    Args:
        size: Largest number of things; the oldest are forgotten.
    """

    def __init__(self, size: int):
        self._items: OrderedDict[str, T] = OrderedDict()
        self._size, self._lock = size, Lock()

    def keep(self, item: T) -> str:
        """Keeps a thing and returns its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._items[key] = item
            while len(self._items) > self._size:
                self._items.popitem(last=False)
        return key

    def get(self, key: Any) -> T | None:
        """Returns the thing of a key, or None if it is unknown or forgotten."""
        with self._lock:
            if not isinstance(key, str) or key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]


class Results(Generic[T]):
    """The last few results of costly work by what they were made of, which are the same for everybody.

    Args:
        size: Largest number of results; those that nobody has needed for longest are forgotten.
    """

    def __init__(self, size: int):
        self._items: OrderedDict[Hashable, T] = OrderedDict()
        self._size, self._lock = size, Lock()

    def of(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Returns the result of a key, computed if nobody needed it lately."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        result = compute()
        with self._lock:
            self._items[key] = result
            while len(self._items) > self._size:
                self._items.popitem(last=False)
        return result
