"""True directions of concepts, from pairs of images, and the neurons that write along them.

After SynthSAEBench (F1 and MCC against true features), whose true directions are those of its generator. Here they are
mean differences of pairs of images that differ in one thing.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cbsae_hub.metrics.f_score import f_score
from cbsae_hub.metrics.latents import check_batch, check_rows
from cbsae_hub.metrics.streaming import StreamingMetric

NO_NEURON = -1


def true_directions(before: Tensor, after: Tensor, changes: Tensor) -> Tensor:
    """The directions in which concepts move activations, see :class:`TrueDirections`.

    Args:
        before: Activations of the first images, ``[pairs, d]``.
        after: Activations of the second images, likewise.
        changes: ``[pairs, concepts]``: 1 where the concept comes, -1 where it goes, 0 where it does not change.

    Returns:
        ``[concepts, d]`` float64; NaN for concepts that no pair changes.

    Raises:
        ValueError: See :meth:`TrueDirections.update`.
    """
    metric = TrueDirections(changes.shape[-1], before.shape[-1])
    metric.update(before, after, changes)
    return metric.compute()


class TrueDirections(StreamingMetric):
    """Mean differences of pairs, over a stream of batches.

    Where one concept changes in each pair, a concept's direction is the mean of ``after - before`` over the pairs in
    which it comes, and of ``before - after`` over those in which it goes. Where an apple becomes a pear, two change:
    then it is the least-squares solution of ``after - before = changes @ directions``, the shortest one. What all
    concepts that only ever replace each other have in common is in no difference, and not in the solution.

    Args:
        concepts: Number of concepts.
        d: Width of the activations.
    """

    gram: Tensor
    products: Tensor

    def __init__(self, concepts: int, d: int):
        super().__init__()
        self.concepts, self.d = concepts, d
        self.add_sums(torch.float64, gram=(concepts, concepts), products=(concepts, d))

    def update(self, before: Tensor, after: Tensor, changes: Tensor) -> None:
        """Adds pairs.

        Raises:
            ValueError: If shapes differ, or activations are not finite.
        """
        for name, x in {"activations before": before, "activations after": after}.items():
            check_rows(name, x, self.d, changes=changes)
        changes = changes.double()
        self.gram += changes.T @ changes
        self.products += changes.T @ (after.double() - before.double())

    def compute(self) -> Tensor:
        """Directions ``[concepts, d]`` float64; NaN for concepts that no pair changes."""
        directions = torch.linalg.pinv(self.gram, hermitian=True) @ self.products
        return torch.where(self.gram.diagonal()[:, None] > 0, directions, torch.nan)


@dataclass
class DirectionScores:
    """The neuron that writes along each concept's true direction, each ``[concepts]``.

    Attributes:
        neurons: The neurons: each belongs to one concept at most, and all cosines together are as large as possible. -1
            where there are fewer neurons than concepts and none is left.
        cosine: Cosine of the neuron's decoder row to the direction, with its sign; 0 where there is no neuron.
        f1: F1 of "the neuron is active" for "the image has the concept"; 0 where there is no neuron.
        chance: Mean of ``f1`` over all permutations of the images.

    NaN stands for concepts without a direction, in the last two also for those that no image has.
    """

    neurons: np.ndarray
    cosine: np.ndarray
    f1: np.ndarray
    chance: np.ndarray

    @property
    def mcc(self) -> float:
        """Mean correlation coefficient: the mean of ``cosine`` over the concepts that have a direction."""
        return float(np.nanmean(self.cosine)) if np.isfinite(self.cosine).any() else float("nan")


def direction_scores(rows: Tensor, directions: Tensor, latents: Tensor, labels: Tensor) -> DirectionScores:
    """Matches decoder rows with true directions, and scores the matched neurons as detectors.

    A decoder that lost its encoder, its rows permuted for instance, keeps its cosines: only F1 tells.

    Args:
        rows: Decoder rows ``[neurons, d]``.
        directions: ``[concepts, d]``, see :func:`true_directions`.
        latents: ``[images, neurons]``, image-level, dense or sparse (COO); above 0 is active.
        labels: ``[images, concepts]`` bool.

    Raises:
        ValueError: See the class :class:`DirectionMatch` and its ``update``.
    """
    metric = DirectionMatch(rows, directions)
    metric.update(latents, labels)
    return metric.compute()


class DirectionMatch(StreamingMetric):
    """:func:`direction_scores` over a stream of batches; keeps three numbers a concept.

    Args:
        rows: Decoder rows ``[neurons, d]``.
        directions: True directions ``[concepts, d]``; NaN for concepts that have none.

    Raises:
        ValueError: If widths differ, or decoder rows are not finite.
    """

    hits: Tensor
    active: Tensor
    labelled: Tensor
    images: Tensor

    def __init__(self, rows: Tensor, directions: Tensor):
        super().__init__()
        if rows.ndim != 2 or rows.shape[1] != directions.shape[1]:
            raise ValueError(
                f"decoder rows {tuple(rows.shape)} and directions {tuple(directions.shape)} must have one width"
            )
        if not rows.isfinite().all():
            raise ValueError("decoder rows are NaN or infinite")
        self.width = len(rows)
        defined = directions.isfinite().all(1).cpu()
        units = [F.normalize(part.detach().double().cpu(), dim=1) for part in (directions, rows)]
        cosines = (units[0][defined] @ units[1].T).numpy()
        places = np.flatnonzero(defined.numpy())
        which, neurons = linear_sum_assignment(cosines, maximize=True)
        self.neurons = np.full(len(directions), NO_NEURON)
        self.neurons[places[which]] = neurons
        self.cosine = np.where(defined.numpy(), 0.0, np.nan)
        self.cosine[places[which]] = cosines[which, neurons]
        self.add_sums(torch.int64, images=(), **dict.fromkeys(("hits", "active", "labelled"), len(directions)))

    def update(self, latents: Tensor, labels: Tensor) -> None:
        """Adds images.

        Raises:
            ValueError: If lengths differ, or latents are not finite.
        """
        check_batch(latents, self.width, labels=labels)
        matched = torch.as_tensor(self.neurons, device=latents.device)
        columns = latents.index_select(1, matched.clamp_min(0))
        on = (columns.to_dense() > 0) & (matched != NO_NEURON)
        labels = labels.bool().to(on.device)
        self.images += len(labels)
        self.active += on.sum(0)
        self.labelled += labels.sum(0)
        self.hits += (on & labels).sum(0)

    def compute(self) -> DirectionScores:
        """The scores."""
        hits, active, labelled = (part.cpu().numpy() for part in (self.hits, self.active, self.labelled))
        by_chance = active * labelled / max(1, int(self.images))
        f1, chance = (f_score(count, active, labelled, 1.0) for count in (hits, by_chance))
        lacks = np.isnan(self.cosine)
        return DirectionScores(self.neurons, self.cosine, *(np.where(lacks, np.nan, part) for part in (f1, chance)))
