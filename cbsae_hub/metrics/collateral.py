"""Collateral damage of a steering: what it changes in the probes of all other concepts.

After SwordBench (arXiv 2605.16372). Its text was not at hand: the probes and the scores are our choice.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_rows
from cbsae_hub.metrics.streaming import StreamingMetric

RIDGE = 1e-6  # of the mean variance of a dimension


@dataclass(frozen=True)
class Probes:
    """Linear probes of concepts.

    Attributes:
        weights: ``[d, concepts]``, so that each probe's readings of the images that it was fitted on have deviation 1.
        mean: ``[d]``, the activation that reads 0.
    """

    weights: Tensor
    mean: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Readings of activations or embeddings ``[..., d]``, ``[..., concepts]``, in deviations."""
        return (x.to(self.weights.device, self.weights.dtype) - self.mean) @ self.weights


class ConceptProbes(StreamingMetric):
    """Ridge regressions of all concepts' labels, fitted batch by batch in closed form.

    Args:
        concepts: Number of concepts.
        d: Width of the activations or embeddings.
        ridge: Penalty, as a share of the mean variance of a dimension.
    """

    images: Tensor
    sums: Tensor
    squares: Tensor
    labelled: Tensor
    products: Tensor

    def __init__(self, concepts: int, d: int, ridge: float = RIDGE):
        super().__init__()
        self.concepts, self.d, self.ridge = concepts, d, ridge
        self.add_sums(torch.float64, sums=d, squares=(d, d), labelled=concepts, products=(d, concepts))
        self.add_sums(torch.int64, images=())

    def update(self, x: Tensor, labels: Tensor) -> None:
        """Adds activations or embeddings ``[images, d]`` and labels ``[images, concepts]`` bool.

        Raises:
            ValueError: If lengths differ, or activations are not finite.
        """
        check_rows("activations", x, self.d, labels=labels)
        x, labels = x.double(), labels.double()
        self.images += len(x)
        self.sums += x.sum(0)
        self.squares += x.T @ x
        self.labelled += labels.sum(0)
        self.products += x.T @ labels

    def compute(self) -> Probes:
        """The probes; one whose label no image has, or every image, reads 0 everywhere.

        Raises:
            ValueError: If there are no two images, or all are the same.
        """
        n = int(self.images)
        mean = self.sums / max(1, n)
        covariance = self.squares / max(1, n) - mean.outer(mean)
        scale = covariance.diagonal().mean()
        if n < 2 or scale <= 0:
            raise ValueError(f"{n} images that do not differ cannot fit probes: give more images")
        target = self.products / n - mean.outer(self.labelled / n)
        weights = torch.linalg.solve(covariance + self.ridge * scale * torch.eye(self.d).to(covariance), target)
        deviation = (weights * (covariance @ weights)).sum(0).clamp_min(0).sqrt()
        return Probes(torch.where(deviation > 0, weights / deviation, 0.0), mean)


@dataclass
class CollateralScores:
    """Effects of steerings, each ``[concepts]`` by the concept that was steered, in the mean over its images.

    Attributes:
        effect: Change of the steered concept's probe, in its deviations.
        damage: Mean absolute change of all other concepts' probes, in theirs.
        selectivity: Share of the steered concept in the squared changes of all probes; 0 where its probe fell. It is 1
            if nothing else changes.
        chance: Mean of ``selectivity`` over all concepts in the place of the steered one.

    NaN stands for concepts that were never steered.
    """

    effect: np.ndarray
    damage: np.ndarray
    selectivity: np.ndarray
    chance: np.ndarray


def collateral_damage(before: Tensor, after: Tensor, targets: Tensor) -> CollateralScores:
    """Scores steerings by what they change in probes.

    To score a suppression, give the readings after it as ``before``.

    Args:
        before: Readings of all probes without steering, ``[n, concepts]``, see :class:`ConceptProbes`.
        after: Readings with steering, likewise.
        targets: ``[n]`` int64, the concept that was steered.

    Raises:
        ValueError: See :meth:`CollateralDamage.update`.
    """
    metric = CollateralDamage(before.shape[-1])
    metric.update(before, after, targets)
    return metric.compute()


class CollateralDamage(StreamingMetric):
    """:func:`collateral_damage` over a stream of batches.

    Args:
        concepts: Number of concepts, at least two.

    Raises:
        ValueError: If there are fewer: nothing else could be damaged.
    """

    count: Tensor
    effect: Tensor
    damage: Tensor
    selectivity: Tensor
    chance: Tensor

    def __init__(self, concepts: int):
        super().__init__()
        if concepts < 2:
            raise ValueError("collateral damage needs two concepts at least: the steered one, and another")
        self.concepts = concepts
        self.add_sums(torch.float64, **dict.fromkeys(("count", "effect", "damage", "selectivity", "chance"), concepts))

    def update(self, before: Tensor, after: Tensor, targets: Tensor) -> None:
        """Adds steered images.

        Raises:
            ValueError: If shapes differ, readings are not finite, or a target is no concept.
        """
        for name, readings in {"readings before": before, "readings after": after}.items():
            check_rows(name, readings, self.concepts, targets=targets)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self.concepts:
            raise ValueError(f"targets are numbers of concepts, from 0 to {self.concepts - 1}")
        change = after.double() - before.double()
        own = change.gather(1, targets[:, None])[:, 0]
        risen = change.clamp_min(0) ** 2
        total = (change**2).sum(1)
        share = torch.where(total[:, None] > 0, risen / total.clamp_min(torch.finfo(total.dtype).tiny)[:, None], 0.0)
        for name, values in {
            "count": torch.ones_like(own),
            "effect": own,
            "damage": (change.abs().sum(1) - own.abs()) / (self.concepts - 1),
            "selectivity": share.gather(1, targets[:, None])[:, 0],
            "chance": share.mean(1),
        }.items():
            getattr(self, name).index_add_(0, targets, values)

    def compute(self) -> CollateralScores:
        """The scores."""
        count = torch.where(self.count > 0, self.count, torch.nan)
        names = ("effect", "damage", "selectivity", "chance")
        return CollateralScores(*((getattr(self, name) / count).cpu().numpy() for name in names))
