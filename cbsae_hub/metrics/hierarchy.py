"""Generality of neurons, measured by the place in a tree of kinds at which the concepts of their images meet.

Sources: Olson et al., Probing the representational power of sparse autoencoders in vision models, 2025 (lowest common
hypernym height, ontological coverage); Pach et al., 2025 (depth of the lowest common ancestor per Matryoshka group).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.metrics.latents import check_batch, transposed_product
from cbsae_hub.metrics.streaming import StreamingMetric
from cbsae_hub.metrics.top_images import StrongestImages, ids_of, values_of
from cbsae_hub.metrics.uniqueness import TOP

MAJORITY = 0.5  # a neuron covers a concept if it is active on at least this share of the concept's images
EVERYTHING = 0.5  # a neuron that covers more than this share of all concepts stands for no kind
NEURON_BLOCK = 512


@dataclass
class CommonKinds:
    """The narrowest kind of each neuron's concepts.

    Attributes:
        concepts: ``[neurons]``, number of concepts that it covers.
        height: ``[neurons]``, mean steps from them up to their lowest common hypernym. NaN for neurons that cover fewer
            than two concepts, or more than half of all.
        coverage: ``[neurons]``, share of that hypernym's concepts that it covers; NaN likewise.
        kind: ``[neurons]``, the hypernym's name; None likewise.
    """

    concepts: np.ndarray
    height: np.ndarray
    coverage: np.ndarray
    kind: list[str | None]


def common_kinds(covered: np.ndarray, tree: ConceptTree, concepts: Sequence[str]) -> CommonKinds:
    """Lowest common hypernym of the concepts that each neuron covers, its height and its coverage (Olson et al.).

    Args:
        covered: ``[neurons, concepts]`` bool.
        tree: The tree that has the concepts as leaves.
        concepts: Names of the columns.

    Raises:
        ValueError: If a concept is no leaf of the tree.
    """
    counts = covered.sum(1)
    height, coverage = np.full(len(covered), np.nan), np.full(len(covered), np.nan)
    kinds: list[str | None] = [None] * len(covered)
    meetings: dict[bytes, tuple[str, float]] = {}  # many neurons cover the same few concepts
    for neuron in np.flatnonzero((counts >= 2) & (counts <= EVERYTHING * len(concepts))):
        key = np.packbits(covered[neuron]).tobytes()
        if key not in meetings:
            meetings[key] = tree.lowest_common_hypernym([concepts[i] for i in np.flatnonzero(covered[neuron]).tolist()])
        kind, height[neuron] = meetings[key]
        kinds[neuron], coverage[neuron] = kind, counts[neuron] / len(tree.leaves_under(kind))
    return CommonKinds(counts, height, coverage, kinds)


class HierarchyScore(StreamingMetric):
    """:func:`common_kinds` over a stream of image batches.

    A neuron covers a concept if it is active on at least half of the concept's images. The paper gives no rule; with
    "on any image" a dense neuron would cover everything, and its table has none that does.

    Args:
        neurons: Number of neurons.
        tree: A tree of concepts.
        concepts: Names of the label columns: leaves of the tree.
    """

    active: Tensor
    images: Tensor

    def __init__(self, neurons: int, tree: ConceptTree, concepts: Sequence[str]):
        super().__init__()
        self.neurons, self.tree, self.concepts = neurons, tree, list(concepts)
        self.add_sums(torch.float64, active=(neurons, len(self.concepts)))
        self.add_sums(torch.int64, images=len(self.concepts))

    def update(self, latents: Tensor, labels: Tensor) -> None:
        """Adds a batch: latents ``[images, neurons]``, dense or sparse COO, and labels ``[images, concepts]`` bool.

        Raises:
            ValueError: If lengths differ or latents are not finite.
        """
        check_batch(latents, self.neurons, labels=labels)
        touched, counts = transposed_product(latents.relu().sign(), labels.double())
        self.active.index_add_(0, touched, counts)
        self.images += labels.sum(0)

    def compute(self) -> CommonKinds:
        """The narrowest kind of each neuron's concepts."""
        covered = (self.active >= MAJORITY * self.images) & (self.images > 0)
        return common_kinds(covered.cpu().numpy(), self.tree, self.concepts)


def common_ancestor_depth(labels: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Mean depth at which the concepts of a neuron's images meet (Pach et al., iNaturalist figure).

    Over all pairs of images the depth of the deepest kind that a concept of one shares with a concept of the other.
    Pairs with an image without label do not count.

    Args:
        labels: ``[neurons, images, most labels]``, indices of concepts, -1 for none.
        depths: ``[concepts, concepts]``, see :meth:`ConceptTree.common_depths`.

    Returns:
        ``[neurons]``; NaN where no pair counts.
    """
    padded = np.pad(depths, (0, 1), constant_values=-2)  # one more concept, "none", meets nothing
    upper = np.triu_indices(labels.shape[1], 1)
    result = []
    for start in range(0, len(labels), NEURON_BLOCK):
        block = labels[start : start + NEURON_BLOCK]
        first, second = block[:, upper[0]], block[:, upper[1]]  # [neurons, pairs, labels]
        meet = padded[first[..., :, None], second[..., None, :]].max((-2, -1))
        counts = meet > -2
        with np.errstate(invalid="ignore"):
            result.append((meet.clip(0) * counts).sum(1) / counts.sum(1))
    return np.concatenate(result)


class CommonAncestorDepth(StrongestImages):
    """:func:`common_ancestor_depth` of each neuron's 16 top images, over a stream of batches.

    Args:
        neurons: Number of neurons.
        tree: A tree of concepts.
        concepts: Names of the label columns: leaves of the tree.
        k: Images per neuron.
    """

    labels: list[Tensor]

    def __init__(self, neurons: int, tree: ConceptTree, concepts: Sequence[str], k: int = TOP):
        super().__init__(neurons, k)
        self.depths = tree.common_depths(concepts)
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, latents: Tensor, labels: Tensor, image_ids: Tensor) -> None:
        """Adds a batch: see :meth:`TopImages.update`; labels ``[images, concepts]`` bool."""
        check_batch(latents, self.neurons, labels=labels)
        self.add_images(latents, image_ids)
        self.labels.append(labels)

    def compute(self) -> np.ndarray:
        """``[neurons]``; NaN for neurons that are active on fewer than two images with a label."""
        keys = self.filled_keys()
        ids, labels = torch.cat(self.image_ids), torch.cat(self.labels)
        order = ids.argsort()
        most = max(1, int(labels.sum(1).max()))
        has_label, which = labels[order].int().topk(most, dim=1)  # the labels of each image, then none
        by_image = torch.where(has_label > 0, which, -1)
        rows = torch.searchsorted(ids[order], ids_of(keys))
        of_top = torch.where((values_of(keys) > 0)[..., None], by_image[rows], -1)
        return common_ancestor_depth(of_top.cpu().numpy(), self.depths)
