"""Sufficiency and necessity: if a concept's neuron is set, is the concept there; if it is ablated, does it go?

Whether it is there, a model says whose activations the neuron is of: the class that CLIP chooses, the word that LLaVA
says, what a judge sees in unCLIP's drawing. The two words are those of causal analysis; the level of chance is ours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_rows
from cbsae_hub.metrics.streaming import StreamingMetric


@dataclass
class InterventionScores:
    """Effects of setting and ablating each concept's neuron, each ``[concepts]``.

    Attributes:
        sufficiency: Share of the images that did not show the concept, and do once its neuron is set.
        sufficiency_chance: The same of the other concepts, in the mean: how readily anything appears.
        necessity: Share of the images that showed the concept, and do not once its neuron is ablated.
        necessity_chance: The same of the other concepts that they showed: how readily anything goes.

    NaN stands for concepts without such an image.
    """

    sufficiency: np.ndarray
    sufficiency_chance: np.ndarray
    necessity: np.ndarray
    necessity_chance: np.ndarray


def interventions(before: Tensor, after: Tensor, targets: Tensor, ablated: Tensor) -> InterventionScores:
    """Scores interventions by which concepts are shown before and after.

    Args:
        before: ``[n, concepts]`` bool, what is shown without an intervention.
        after: What is shown with it, likewise.
        targets: ``[n]`` int64, the concept whose neuron was set or ablated.
        ablated: ``[n]`` bool: it was ablated; else set.

    Raises:
        ValueError: See :class:`Interventions` and its ``update``.
    """
    metric = Interventions(before.shape[-1])
    metric.update(before, after, targets, ablated)
    return metric.compute()


class Interventions(StreamingMetric):
    """:func:`interventions` over a stream of batches; keeps eight numbers a concept.

    Args:
        concepts: Number of concepts, at least two.

    Raises:
        ValueError: If there are fewer: there is nothing to compare with.
    """

    could: Tensor
    did: Tensor
    others_could: Tensor
    others_did: Tensor

    def __init__(self, concepts: int):
        super().__init__()
        if concepts < 2:
            raise ValueError("interventions need two concepts at least: the one that is set or ablated, and another")
        self.concepts = concepts
        self.add_sums(torch.int64, **dict.fromkeys(("could", "did", "others_could", "others_did"), (2, concepts)))

    def update(self, before: Tensor, after: Tensor, targets: Tensor, ablated: Tensor) -> None:
        """Adds images, see :func:`interventions`.

        Raises:
            ValueError: If shapes differ, or a target is no concept.
        """
        for name, present in {"concepts before": before, "concepts after": after}.items():
            check_rows(name, present, self.concepts, targets=targets, ablated=ablated)
        if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < self.concepts:
            raise ValueError(f"targets are numbers of concepts, from 0 to {self.concepts - 1}")
        ablated = ablated.bool()
        could = before.bool() == ablated[:, None]  # what can appear, or can go
        did = could & (after.bool() != before.bool())
        place = ablated.long() * self.concepts + targets
        for name, own in (("could", could), ("did", did)):
            hits = own.gather(1, targets[:, None])[:, 0].long()
            getattr(self, name).view(-1).index_add_(0, place, hits)
            getattr(self, f"others_{name}").view(-1).index_add_(0, place, own.sum(1) - hits)

    def compute(self) -> InterventionScores:
        """The scores."""
        own, others = (
            torch.where(count > 0, hits.double() / count.clamp_min(1), torch.nan).cpu().numpy()
            for hits, count in ((self.did, self.could), (self.others_did, self.others_could))
        )
        return InterventionScores(own[0], others[0], own[1], others[1])
