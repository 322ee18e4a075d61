"""Places of rows in an activation store: the image of each, and the row of all shards together."""

from typing import Protocol

import numpy as np


class Rows(Protocol):
    """Rows of some of a store's images, one after the other."""

    images: np.ndarray
    """Ids of the images."""

    def __len__(self) -> int:
        """Number of rows."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of rows of each image."""

    def owners(self, rows: np.ndarray) -> np.ndarray:
        """Places in :attr:`images` of the images that rows belong to."""

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """The rows' numbers among those of all shards."""


class EvenRows:
    """Rows of images that have the same number of them; see :class:`Rows`."""

    def __init__(self, images: np.ndarray, tokens: int):
        self.images, self.tokens = images, tokens

    def __len__(self) -> int:
        return len(self.images) * self.tokens

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self.images), self.tokens)

    def owners(self, rows: np.ndarray) -> np.ndarray:
        return rows // self.tokens

    def stored(self, rows: np.ndarray) -> np.ndarray:
        place, token = np.divmod(rows, self.tokens)
        return self.images[place] * self.tokens + token


class RaggedRows:
    """Rows of images, or texts, of which each has a number of its own, perhaps none; see :class:`Rows`.

    Args:
        images: Ids of the images.
        counts: Rows of each image of the whole store.
    """

    def __init__(self, images: np.ndarray, counts: np.ndarray):
        self.images = images
        self.lengths = counts[images].astype(np.int64)
        self._ends = np.cumsum(self.lengths)
        stored_ends = np.cumsum(counts.astype(np.int64))
        # What is added to a row's number here to get that among all rows.
        self._shifts = (stored_ends - counts)[images] - (self._ends - self.lengths)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def owners(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, rows, side="right")

    def stored(self, rows: np.ndarray) -> np.ndarray:
        return rows + self._shifts[self.owners(rows)]
