"""A random order of rows that can be entered anywhere."""

from functools import lru_cache

import numpy as np

RUN = 256  # neighbouring rows that are read together when not everything fits in memory


class ShuffledOrder:
    """Positions 0 .. n - 1 in an order that is random, reproducible, and known at any place without what is before it.

    What fits in memory is permuted exactly. Otherwise runs of neighbouring rows are permuted, consecutive runs are
    gathered into buffers, and each buffer is permuted: rows of a run then lie in the same buffer, at random places.
    Seed and epoch, the number of the pass over the data, decide the order.
    """

    def __init__(self, n: int, in_memory: int, seed: int, epoch: int):
        self.n = n
        self._key = [seed, epoch]
        self._run = 1 if n <= in_memory else RUN
        self._runs = np.random.default_rng(self._key).permutation(-(-n // self._run))
        self._runs_per_buffer = len(self._runs) if self._run == 1 else max(1, in_memory // 2 // self._run)
        # All runs have the same length but the last, which is put at the end so that places can be computed.
        short = np.flatnonzero(self._runs == len(self._runs) - 1)
        self._runs[short], self._runs[-1] = self._runs[-1], self._runs[short].item()
        self._buffer = lru_cache(maxsize=2)(self._make_buffer)

    def _make_buffer(self, index: int) -> np.ndarray:
        if self._run == 1:
            return self._runs
        runs = self._runs[index * self._runs_per_buffer : (index + 1) * self._runs_per_buffer]
        rows = (runs[:, None] * self._run + np.arange(self._run)).ravel()
        return np.random.default_rng([*self._key, index]).permutation(rows[rows < self.n])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows at places ``start`` to ``stop`` of the order."""
        size = self._runs_per_buffer * self._run
        indices = range(start // size, -(-stop // size))
        parts = [self._buffer(i)[max(0, start - i * size) : stop - i * size] for i in indices]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
