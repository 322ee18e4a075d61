"""An SAE keeps classes in its reconstructions, and itself on images of another kind: how much?

After ViSAEBench's downstream preservation and cross-domain generalisation, with several draws of the test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch, entries_of
from cbsae_hub.metrics.sparse_probing import L2, SEEDS, TEST, drawn_of_each, fit_on, read_on
from cbsae_hub.metrics.streaming import StreamingMetric


@dataclass
class Preservation:
    """Accuracy of a probe that was fitted on activations, each ``[seeds]``.

    Attributes:
        original: On the activations of test images.
        reconstructed: On what the SAE makes of them.
    """

    original: np.ndarray
    reconstructed: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """Share that the reconstruction keeps, ``[seeds]``: 1 is all; NaN where the probe is never right."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.original > 0, self.reconstructed / self.original, np.nan)


def preservation(
    activations: np.ndarray,
    reconstructions: np.ndarray,
    targets: np.ndarray,
    seeds: Sequence[int] = SEEDS,
    test: float = TEST,
    l2: float = L2,
) -> Preservation:
    """Fits a probe of all classes on activations, and reads it on reconstructions of other images.

    Args:
        activations: Image-level, ``[images, d]``.
        reconstructions: Likewise.
        targets: ``[images]``, the class of each image, from 0.
        seeds: Seeds of the draw of the test images, the same share of each class.
        test: That share.
        l2: See :func:`cbsae_hub.metrics.linear_probe.fit_probe`.

    Raises:
        ValueError: If shapes differ, or a class has a single image.
    """
    if activations.shape != reconstructions.shape or len(activations) != len(targets):
        raise ValueError(
            f"activations {activations.shape}, reconstructions {reconstructions.shape} and {len(targets)} targets "
            "were given: they must be of the same images"
        )
    accuracies = np.zeros((2, len(seeds)))
    for number, seed in enumerate(seeds):
        read = drawn_of_each(targets, test, seed)
        probe = fit_on(activations[~read].astype(np.float64), targets[~read], int(targets.max()) + 1, l2)
        for row, x in enumerate((activations, reconstructions)):
            logits = read_on(probe, x[read].astype(np.float64))
            accuracies[row, number] = (logits.argmax(1) == targets[read]).mean()
    return Preservation(*accuracies)


class ActiveNeurons(StreamingMetric):
    """The neurons that are active on any image, over a stream of batches.

    Args:
        neurons: Number of neurons.
    """

    active: Tensor

    def __init__(self, neurons: int):
        super().__init__()
        self.neurons = neurons
        self.add_state("active", torch.zeros(neurons, dtype=torch.int64), dist_reduce_fx="max")

    def update(self, latents: Tensor) -> None:
        """Adds image-level latents ``[images, neurons]``, dense or sparse (COO); above 0 is active.

        Raises:
            ValueError: If they are of another number of neurons, or not finite.
        """
        check_batch(latents, self.neurons)
        _, owners, values = entries_of(latents)
        self.active[owners[values > 0].unique()] = 1

    def compute(self) -> np.ndarray:
        """Bool ``[neurons]``."""
        return self.active.bool().cpu().numpy()


@dataclass
class Transfer:
    """Figures of an SAE on images of another kind, each 0 to 1.

    Attributes:
        explained: Explained variance there, not below 0.
        alive: Share of the neurons that are active on usual images, and there too.
        overlap: Jaccard index of the neurons that are active on usual images, and there.
        probing: Accuracy there of a sparse probe, see :func:`cbsae_hub.metrics.sparse_probing.class_probing`.
    """

    explained: float
    alive: float
    overlap: float
    probing: float

    @property
    def score(self) -> float:
        """The mean of the four (ViSAEBench's M6)."""
        return float(np.mean([self.explained, self.alive, self.overlap, self.probing]))


def transfer(usual: np.ndarray, other: np.ndarray, explained_variance: float, accuracy: float) -> Transfer:
    """Compares what is active on images of two kinds.

    Args:
        usual: Neurons that are active on usual images, bool ``[neurons]``, see :class:`ActiveNeurons`.
        other: Those that are active on the others, likewise.
        explained_variance: Of the SAE on the others.
        accuracy: Of a sparse probe on the others.

    Raises:
        ValueError: If the numbers of neurons differ.
    """
    if len(usual) != len(other):
        raise ValueError(f"neurons of one SAE are compared, got {len(usual)} and {len(other)}")
    both, either = (usual & other).sum(), (usual | other).sum()
    alive, overlap = both / max(1, usual.sum()), both / max(1, either)
    return Transfer(max(0.0, explained_variance), float(alive), float(overlap), accuracy)
