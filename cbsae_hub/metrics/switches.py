"""Pairs of images that differ in one thing: does a detector switch where its concept changes, and only there?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric


@dataclass
class SwitchScores:
    """Answers of detectors to changes, each ``[concepts]``.

    A detector switches in a pair if it is on in one of the two images alone. It switches rightly if its concept changes
    and comes where the detector turns on, or goes where it turns off.

    Attributes:
        right: Share of the pairs that change the concept in which the detector switches rightly.
        precise: Share of the detector's switches that are right; NaN if it never switches.
        still: Share of the pairs that do not change the concept in which the detector stays as it is.
        score: ``2 right switches / (changes + switches)``, the harmonic mean of ``right`` and ``precise``: 1 if the
            detector switches when its concept changes, and only then.
        chance: Mean of ``score`` over all permutations of the detector's switches among the pairs.
        changes: Number of pairs that change the concept.

    NaN stands for concepts that no pair changes, in ``still`` for those that every pair changes.
    """

    right: np.ndarray
    precise: np.ndarray
    still: np.ndarray
    score: np.ndarray
    chance: np.ndarray
    changes: np.ndarray


def switches(before: Tensor, after: Tensor, changes: Tensor) -> SwitchScores:
    """Scores detectors on pairs of images.

    Args:
        before: ``[pairs, concepts]`` bool, whether each concept's detector is on in the first image.
        after: Likewise, in the second.
        changes: ``[pairs, concepts]``: 1 where the concept comes, -1 where it goes, 0 where it does not change.

    Raises:
        ValueError: See :meth:`Switches.update`.
    """
    metric = Switches(changes.shape[-1])
    metric.update(before, after, changes)
    return metric.compute()


class Switches(StreamingMetric):
    """:func:`switches` over a stream of batches of pairs.

    Args:
        concepts: Number of concepts, each with one detector.
    """

    pairs: Tensor
    comes: Tensor
    goes: Tensor
    on: Tensor
    off: Tensor
    hits: Tensor
    still: Tensor

    def __init__(self, concepts: int):
        super().__init__()
        self.concepts = concepts
        names = ("comes", "goes", "on", "off", "hits", "still")
        self.add_sums(torch.int64, pairs=(), **dict.fromkeys(names, concepts))

    def update(self, before: Tensor, after: Tensor, changes: Tensor) -> None:
        """Adds pairs.

        Raises:
            ValueError: If shapes differ, or a change is none of -1, 0 and 1.
        """
        if not before.shape == after.shape == changes.shape == (len(changes), self.concepts):
            shapes = ", ".join(str(tuple(part.shape)) for part in (before, after, changes))
            raise ValueError(f"before, after and changes must each be [pairs, {self.concepts}], got {shapes}")
        if len(changes) and not (changes.abs() <= 1).all():
            raise ValueError("a change is 1 (the concept comes), -1 (it goes) or 0")
        changes, switched = changes.long(), after.long() - before.long()
        self.pairs += len(changes)
        for name, part in {
            "comes": changes > 0,
            "goes": changes < 0,
            "on": switched > 0,
            "off": switched < 0,
            "hits": (switched != 0) & (switched == changes),
            "still": (switched == 0) & (changes == 0),
        }.items():
            getattr(self, name).add_(part.sum(0))

    def compute(self) -> SwitchScores:
        """The scores."""
        comes, goes, on, off, hits, still = (
            getattr(self, name).cpu().numpy().astype(np.float64)
            for name in ("comes", "goes", "on", "off", "hits", "still")
        )
        pairs, changes, switched = float(self.pairs), comes + goes, on + off
        with np.errstate(invalid="ignore", divide="ignore"):
            both = np.where(changes > 0, changes + switched, np.nan)
            return SwitchScores(
                right=hits / changes,
                precise=hits / switched,
                still=still / (pairs - changes),
                score=2 * hits / both,
                chance=2 * (comes * on + goes * off) / pairs / both,
                changes=changes.astype(np.int64),
            )
