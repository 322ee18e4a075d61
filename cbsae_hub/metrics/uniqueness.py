"""Uniqueness of neurons: overlaps of the images that excite them most.

Source: Pach et al., 2025, appendix on uniqueness: Jaccard index of the 16 most activating images, over all pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cbsae_hub.metrics.top_images import StrongestImages, ids_of, values_of

TOP = 16
NEURON_BLOCK = 8192


@dataclass
class Overlaps:
    """Overlaps of all pairs of neurons.

    Attributes:
        pairs: ``[k + 1]``: numbers of pairs that share 0, 1, ... k of their images.
        nearest: ``[neurons]``: the largest Jaccard index with another neuron; NaN for those left out.
        partner: ``[neurons]``: the other neuron; -1 for those left out, or if none shares an image.
        left_out: Neurons with fewer than k active images.
        images: Ids of each neuron's k images, the most active first; fewer if it is active on fewer.
    """

    pairs: np.ndarray
    nearest: np.ndarray
    partner: np.ndarray
    left_out: int
    images: list[list[int]]

    @property
    def jaccard(self) -> np.ndarray:
        """``[k + 1]``: the Jaccard index of sets of k that share 0, 1, ... k."""
        shared = np.arange(len(self.pairs))
        return shared / (2 * (len(self.pairs) - 1) - shared)

    def share_above(self, threshold: float) -> float:
        """Share of the pairs whose Jaccard index is larger; NaN without pairs."""
        return self._mean(self.jaccard > threshold)

    def mean(self) -> float:
        """Mean Jaccard index over the pairs; NaN without pairs."""
        return self._mean(self.jaccard)

    def _mean(self, values: np.ndarray) -> float:
        return float(np.average(values, weights=self.pairs)) if self.pairs.any() else float("nan")


def overlaps(top_ids: Tensor, complete: Tensor | None = None) -> Overlaps:
    """Jaccard overlaps of all pairs of neurons' image sets, without a loop over pairs.

    A product of sparse matrices visits only the pairs that share an image.

    Args:
        top_ids: ``[neurons, k]``, different image ids in a row.
        complete: ``[neurons]`` bool: the neurons to compare; default all. Neurons that are active on fewer
            than k images have no set.
    """
    neurons, k = top_ids.shape
    ids = top_ids.cpu().numpy()
    compared = np.arange(neurons) if complete is None else np.flatnonzero(complete.cpu().numpy())
    columns = np.unique(ids[compared], return_inverse=True)[1].reshape(len(compared), k)
    ones = np.ones(columns.size, dtype=np.int32)
    width = int(columns.max(initial=-1)) + 1
    sets = sparse.csr_matrix((ones, columns.ravel(), np.arange(len(compared) + 1) * k), (len(compared), width))
    counts = np.zeros(k + 1, dtype=np.int64)
    nearest, partner = np.full(neurons, np.nan), np.full(neurons, -1)
    nearest[compared] = 0.0
    for start in range(0, len(compared), NEURON_BLOCK):
        shared = (sets[start : start + NEURON_BLOCK] @ sets.T).tocoo()
        rows, others, size = shared.row + start, shared.col, shared.data
        counts += np.bincount(size[others > rows], minlength=k + 1)
        rows, others, size = (part[others != rows] for part in (rows, others, size))
        order = np.lexsort((others, -size, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]  # of each neuron, the other that shares most
        nearest[compared[rows[first]]] = size[first] / (2 * k - size[first])
        partner[compared[rows[first]]] = compared[others[first]]
    counts[0] = len(compared) * (len(compared) - 1) // 2 - counts[1:].sum()
    return Overlaps(counts, nearest, partner, neurons - len(compared), ids.tolist())


class Uniqueness(StrongestImages):
    """:func:`overlaps` over a stream of image batches.

    Args:
        neurons: Number of neurons.
        k: Images per neuron.
    """

    def __init__(self, neurons: int, k: int = TOP):
        super().__init__(neurons, k)

    def update(self, latents: Tensor, image_ids: Tensor) -> None:
        """Adds a batch: see :meth:`TopImages.update`."""
        self.add_images(latents, image_ids)

    def density(self) -> Tensor:
        """Share of the images on which each neuron is active, ``[neurons]``.

        Raises:
            ValueError: If no images were given.
        """
        with self.sync_context():
            return self.fired / len(self.ids())

    def compute(self) -> Overlaps:
        """Overlaps of all pairs of neurons that are active on at least k images.

        Raises:
            ValueError: If no images were given.
        """
        keys = self.filled_keys()
        active = values_of(keys) > 0
        result = overlaps(ids_of(keys), active.all(1) & torch.tensor(keys.shape[1] == self.k))
        result.images = [row[:count] for row, count in zip(result.images, active.sum(1).tolist())]
        return result
