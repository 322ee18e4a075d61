"""Spatial coherence: are the patches on which a neuron is active next to each other?

Source: Moran's I, Moran, "Notes on continuous stochastic phenomena", 1950, of a neuron's map of patches, as ViSAEBench
has it. It needs no labels, and no judge.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric

LEAST_PATCHES = 5
"""Patches of an image on which a neuron must be active: one or two have no pattern."""
MOST_SHARE = 0.9
"""Share of an image's patches on which it may be active."""
LEAST_IMAGES = 10
"""Images with such maps that a neuron needs for a score. ViSAEBench asks for 50."""
AT_ONCE = 2**24  # numbers of the maps that are looked at together


class Coherence(NamedTuple):
    """Spatial coherence of neurons."""

    score: Tensor
    """``[neurons]`` float64: mean Moran's I over images; NaN if too few count."""
    images: Tensor
    """``[neurons]`` int64: the images that count."""


def morans_i(maps: Tensor) -> Tensor:
    """Moran's I of maps ``[n, rows, columns]``: ``[n]`` float64, NaN of maps that are the same everywhere.

    ``I = (N / W) sum_ij w_ij x_i x_j / sum_i x_i^2`` with ``x`` the map less its mean, ``w`` 1 for each of the up to
    eight neighbours of a patch and else 0, ``W`` the sum of all ``w``, and N patches. 1 is a smooth map, 0 is chance,
    which is ``-1 / (N - 1)`` exactly, and below that neighbours differ.

    Raises:
        ValueError: If there are fewer than two patches, or a map is not finite.
    """
    if maps.ndim != 3 or maps[0].numel() < 2:
        raise ValueError(f"expected maps [n, rows, columns] of at least two patches, got {tuple(maps.shape)}")
    if not maps.isfinite().all():
        raise ValueError("maps are NaN or infinite")
    x = maps.double() - maps.double().mean((1, 2), keepdim=True)
    squares = x.square().sum((1, 2))
    products = (x * _neighbours(x)).sum((1, 2))
    pairs = _neighbours(torch.ones_like(x[:1])).sum()
    level = squares > 1e-20 * maps.double().square().sum((1, 2))
    return torch.where(level, x[0].numel() / pairs * products / squares, torch.nan)


def _neighbours(x: Tensor) -> Tensor:
    """Sum of the up to eight neighbours of every patch of ``[n, rows, columns]``."""
    return F.avg_pool2d(x[:, None], 3, 1, 1, divisor_override=1)[:, 0] - x


class SpatialCoherence(StreamingMetric):
    """Mean of :func:`morans_i` of a neuron's maps, over a stream of image batches.

    An image counts for a neuron that is active on at least 5 and at most 90 % of its patches.

    Args:
        neurons: Number of neurons.
        grid: Rows and columns of the patches.
        least_images: Images that must count for a score.
    """

    total: Tensor
    images: Tensor

    def __init__(self, neurons: int, grid: tuple[int, int], least_images: int = LEAST_IMAGES):
        super().__init__()
        self.neurons, self.grid, self.least_images = neurons, grid, least_images
        self.add_sums(torch.float64, total=neurons)
        self.add_sums(torch.int64, images=neurons)

    def update(self, values: Tensor, owners: Tensor) -> None:
        """Adds a batch: latents ``[images, patches, K]``, 0 or less is inactive, and the neurons that they are of.

        Raises:
            ValueError: If the patches are not those of the grid.
        """
        patches = self.grid[0] * self.grid[1]
        if values.shape != owners.shape or values.shape[1] != patches:
            raise ValueError(f"expected latents [images, {patches}, K], got {tuple(values.shape)}")
        image, patch, slot = (values > 0).nonzero().T
        activity, owner = values[image, patch, slot].double(), owners[image, patch, slot]
        maps, place, counts = (image * self.neurons + owner).unique(return_inverse=True, return_counts=True)
        fits = (counts >= LEAST_PATCHES) & (counts <= MOST_SHARE * patches)
        number = fits.cumsum(0) - 1
        counted = fits[place]
        place, patch, activity = number[place[counted]], patch[counted], activity[counted]
        neuron = maps[fits] % self.neurons
        size = max(1, AT_ONCE // patches)
        for start in range(0, len(neuron), size):
            part = (place >= start) & (place < start + size)
            dense = values.new_zeros(min(size, len(neuron) - start), patches, dtype=torch.float64)
            dense.index_put_((place[part] - start, patch[part]), activity[part], accumulate=True)
            score = morans_i(dense.unflatten(1, self.grid))
            self.total.index_add_(0, neuron[start : start + size], score)
        self.images += torch.bincount(neuron, minlength=self.neurons)

    def compute(self) -> Coherence:
        """Scores of all neurons."""
        return Coherence(
            torch.where(self.images >= self.least_images, self.total / self.images, torch.nan), self.images
        )
