"""Localisation: does a neuron fire where its concept is?

The pointing game is Zhang et al.'s, Top-down neural attention by excitation backprop, 2018: a hit if the strongest
patch lies in the box. The share of the activation that does is its energy-based variant (Wang et al., Score-CAM, 2020).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_rows
from cbsae_hub.metrics.streaming import StreamingMetric

INSIDE = 0.5  # a patch of which at least this share is in the box lies in it


@dataclass
class LocalisationScores:
    """Scores of each concept's neuron, in the mean over the concept's images on which it fires, each ``[concepts]``.

    Attributes:
        share: Share of the neuron's activation that lies in the concept's box.
        share_chance: Its mean where every map is put beside every image's box.
        pointing: How often the strongest patch lies in the box; of equally strong ones their mean.
        pointing_chance: Likewise.
        fires: Share of the concept's images on which the neuron fires.

    NaN stands for concepts without an image, in all but the last also for those on whose images the neuron is silent.
    """

    share: np.ndarray
    share_chance: np.ndarray
    pointing: np.ndarray
    pointing_chance: np.ndarray
    fires: np.ndarray


def box_cover(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each patch that lies in a box, ``[boxes, rows, columns]``; of several boxes, take the maximum.

    Args:
        boxes: ``[boxes, 4]``: left, upper, right and lower edge, as shares of what the grid shows.
        grid: Rows and columns of patches.

    Raises:
        ValueError: If a box ends before it begins.
    """
    boxes = boxes.double()
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise ValueError("boxes are left, upper, right, lower: one ends before it begins")
    sides = []
    for count, first, last in ((grid[0], 1, 3), (grid[1], 0, 2)):
        edges = torch.arange(count, dtype=torch.float64)
        low, high = boxes[:, first, None] * count, boxes[:, last, None] * count
        sides.append((torch.minimum(high, edges + 1) - torch.maximum(low, edges)).clamp(0, 1))
    return sides[0][:, :, None] * sides[1][:, None, :]


def localisation(maps: Tensor, cover: Tensor, targets: Tensor, concepts: int) -> LocalisationScores:
    """Scores maps of neurons by the boxes of their concepts.

    Args:
        maps: A neuron's latents at the patches of an image that shows its concept, ``[n, rows, columns]``; what is
            negative counts as 0.
        cover: The share of each patch that lies in the concept's box, likewise, see :func:`box_cover`.
        targets: ``[n]`` int64, the concept of each.
        concepts: Number of concepts.

    Raises:
        ValueError: See :meth:`Localisation.update`.
    """
    metric = Localisation(concepts, maps[0].numel() if len(maps) else 1)
    metric.update(maps, cover, targets)
    return metric.compute()


class Localisation(StreamingMetric):
    """:func:`localisation` over a stream of batches; keeps four maps a concept.

    The level of chance is exact: a mean over all pairs of a map and a box is the product of their means.

    Args:
        concepts: Number of concepts.
        patches: Number of patches.
    """

    images: Tensor
    fires: Tensor
    share: Tensor
    pointing: Tensor
    maps: Tensor
    points: Tensor
    covers: Tensor
    insides: Tensor

    def __init__(self, concepts: int, patches: int):
        super().__init__()
        self.concepts, self.patches = concepts, patches
        self.add_sums(torch.int64, images=concepts, fires=concepts)
        self.add_sums(torch.float64, share=concepts, pointing=concepts)
        self.add_sums(torch.float64, **dict.fromkeys(("maps", "points", "covers", "insides"), (concepts, patches)))

    def update(self, maps: Tensor, cover: Tensor, targets: Tensor) -> None:
        """Adds images, see :func:`localisation`.

        Raises:
            ValueError: If shapes differ, maps are not finite, or a target is no concept.
        """
        flat, inside = maps.flatten(1).double().clamp_min(0), cover.flatten(1).double().to(maps.device)
        for name, one in {"maps": maps.flatten(1), "covers": inside}.items():
            check_rows(name, one, self.patches, targets=targets)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self.concepts:
            raise ValueError(f"targets are numbers of concepts, from 0 to {self.concepts - 1}")
        self.images.index_add_(0, targets, torch.ones_like(targets))
        fires = flat.sum(1) > 0
        flat, inside, targets = flat[fires], inside[fires], targets[fires]
        within = (inside >= INSIDE).double()
        shares = flat / flat.sum(1, keepdim=True)
        strongest = (flat == flat.amax(1, keepdim=True)).double()
        points = strongest / strongest.sum(1, keepdim=True)
        for name, values in {
            "fires": torch.ones_like(targets),
            "share": (shares * inside).sum(1),
            "pointing": (points * within).sum(1),
            "maps": shares,
            "points": points,
            "covers": inside,
            "insides": within,
        }.items():
            getattr(self, name).index_add_(0, targets, values)

    def compute(self) -> LocalisationScores:
        """The scores."""
        count = torch.where(self.fires > 0, self.fires, torch.nan).double()
        images = torch.where(self.images > 0, self.images, torch.nan).double()
        chances = [(a * b).sum(1) / count**2 for a, b in ((self.maps, self.covers), (self.points, self.insides))]
        scores = self.share / count, chances[0], self.pointing / count, chances[1], self.fires / images
        return LocalisationScores(*(score.cpu().numpy() for score in scores))
