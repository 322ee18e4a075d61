"""Features that follow an attribute, and what their suppression does to groups of images.

After "Steering CLIP's vision transformer with sparse autoencoders" (Joseph et al., 2025), section 7.1. A group is a
class with or without the attribute: landbirds on water, for instance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch, transposed_product
from cbsae_hub.metrics.streaming import StreamingMetric

Rule = Literal["strict", "relaxed"]
RULES: tuple[Rule, ...] = ("strict", "relaxed")
LARGEST_DROP = 0.04  # of a group's accuracy, by the relaxed rule of the paper
ROUNDING = 1e-9  # of differences of accuracies


def find_features(latents: Tensor, attribute: Tensor, tau: float) -> Tensor:
    """Features whose mean on images with an attribute exceeds that on images without it by ``tau`` (equation 9).

    Args:
        latents: ``[images, neurons]``, image-level, dense or sparse (COO).
        attribute: ``[images]`` bool: whether an image has the attribute.
        tau: Least difference of the means.

    Returns:
        Numbers of the neurons ``[features]`` int64, those with the largest difference first.

    Raises:
        ValueError: If latents are not finite, of another number of images, or all images have the attribute, or none.
    """
    means = AttributeMeans(latents.shape[-1]).to(latents.device)
    means.update(latents, attribute)
    return means.compute().features(tau)


@dataclass(frozen=True)
class AttributeDifference:
    """Mean activations of neurons.

    Attributes:
        present: Means on images with the attribute, ``[neurons]`` float64.
        absent: Means on the others, likewise.
    """

    present: Tensor
    absent: Tensor

    @property
    def difference(self) -> Tensor:
        """``present - absent``."""
        return self.present - self.absent

    def features(self, tau: float) -> Tensor:
        """See :func:`find_features`."""
        chosen = (self.present > self.absent + tau).nonzero().flatten()
        return chosen[self.difference[chosen].argsort(descending=True, stable=True)]


class AttributeMeans(StreamingMetric):
    """Mean activations of neurons on images with an attribute and without it, batch by batch.

    Args:
        neurons: Number of neurons.
    """

    sums: Tensor
    images: Tensor

    def __init__(self, neurons: int):
        super().__init__()
        self.neurons = neurons
        self.add_sums(torch.float64, sums=(neurons, 2))
        self.add_sums(torch.int64, images=2)

    def update(self, latents: Tensor, attribute: Tensor) -> None:
        """Adds a batch; arguments and errors as :func:`find_features`."""
        check_batch(latents, self.neurons, attribute=attribute)
        sides = torch.stack([~attribute.bool(), attribute.bool()], 1).to(latents.device)
        touched, sums = transposed_product(latents, sides.double())
        self.sums[touched] += sums
        self.images += sides.sum(0)

    def compute(self) -> AttributeDifference:
        """The means.

        Raises:
            ValueError: If all images have the attribute, or none.
        """
        absent, present = self.images.tolist()
        if not (absent and present):
            number = "all" if present else "none"
            raise ValueError(
                f"{number} of the {absent + present} images have the attribute: features are found by comparing images "
                "with it and without it"
            )
        means = self.sums / self.images
        return AttributeDifference(means[:, 1], means[:, 0])


@dataclass(frozen=True)
class GroupAccuracy:
    """Right answers by group, in the order of :func:`count_groups`.

    Attributes:
        hits: Right answers of each group.
        images: Images of each group.
    """

    hits: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def groups(self) -> tuple[float, ...]:
        """Accuracy of each group, 0..1."""
        return tuple(hits / images for hits, images in zip(self.hits, self.images))

    @property
    def overall(self) -> float:
        """Accuracy on all images, 0..1."""
        return sum(self.hits) / sum(self.images)

    @property
    def worst(self) -> float:
        """Accuracy of the group with the lowest one, 0..1."""
        return min(self.groups)


def count_groups(predictions: Tensor, targets: Tensor, attribute: Tensor, classes: int) -> GroupAccuracy:
    """Counts right answers by class and attribute; group ``2 c + a`` is class c without (a = 0) or with it.

    Args:
        predictions: ``[images]`` int64, classes that a model answers.
        targets: ``[images]`` int64, right classes.
        attribute: ``[images]`` bool.
        classes: Number of classes.

    Raises:
        ValueError: If a group has no images: it would have no accuracy.
    """
    groups = 2 * targets + attribute.long()
    images = torch.bincount(groups, minlength=2 * classes).tolist()
    if 0 in images:
        empty = images.index(0)
        raise ValueError(f"there is no image of class {empty // 2} {'with' if empty % 2 else 'without'} the attribute")
    hits = torch.bincount(groups[predictions == targets], minlength=2 * classes).tolist()
    return GroupAccuracy(tuple(hits), tuple(images))


def choose(
    baseline: GroupAccuracy, candidates: Sequence[GroupAccuracy], rule: Rule, drop: float = LARGEST_DROP
) -> int | None:
    """Chooses one of several suppressions by what they do on a validation split.

    The one with the highest worst-group accuracy, then overall accuracy, is chosen; of equals the last one. By the
    strict rule neither of the two may be lower than without suppression. By the relaxed one the worst group may not
    lose, and no other group more than ``drop``.

    Args:
        baseline: Accuracies without suppression.
        candidates: Accuracies of the suppressions.
        rule: "strict" or "relaxed".
        drop: Largest loss of a group's accuracy, by the relaxed rule.

    Returns:
        Place of the chosen one; None if the rule allows none.
    """

    def allowed(one: GroupAccuracy) -> bool:
        if one.worst < baseline.worst - ROUNDING:
            return False
        if rule == "strict":
            return one.overall >= baseline.overall - ROUNDING
        return all(after >= before - drop - ROUNDING for after, before in zip(one.groups, baseline.groups))

    places = [place for place, one in enumerate(candidates) if allowed(one)]
    return max(places, key=lambda place: (candidates[place].worst, candidates[place].overall, place), default=None)
