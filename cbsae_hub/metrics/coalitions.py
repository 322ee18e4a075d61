"""Coalitions: the few neurons of which any is active where a concept is.

After the greedy matching of binarised latents in "synCUB, synCOCO, TAPAScore and FBMP" (arXiv 2606.24716). Its text was
not at hand: the greedy OR and F0.5 are its idea, halves, ties and the level of chance are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from torch import Tensor

from cbsae_hub.metrics.f_score import f_score
from cbsae_hub.metrics.ground_truth import GroundTruth
from cbsae_hub.metrics.latents import entries_of

BETA = 0.5
MOST = 8  # neurons in a coalition
LABEL_BLOCK = 256
ROUNDING = 1e-12  # of an F score: a gain that is no larger is none


@dataclass
class CoalitionScores:
    """The best coalition for each concept, chosen on one half of the images and scored on the other.

    Attributes:
        members: Neurons of each concept's coalition, in the order of their choice; empty where no neuron helps.
        chosen: ``[concepts]``, F0.5 on the half on which members were chosen.
        score: ``[concepts]``, F0.5 on the other half.
        chance: ``[concepts]``, mean of ``score`` over all permutations of the other half's images.

    NaN stands for concepts that no image of the half shows.
    """

    members: list[list[int]]
    chosen: np.ndarray
    score: np.ndarray
    chance: np.ndarray


def coalitions(
    latents: sparse.spmatrix | np.ndarray, labels: np.ndarray, most: int = MOST, seed: int = 0
) -> CoalitionScores:
    """Finds the coalition of each concept, greedily, and scores it on images that it was not chosen on.

    A neuron is active on an image if its latent is above 0, a coalition if any member is. Members are added one by
    one, each time the neuron that raises F0.5 most (of equals the first), until none raises it.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        labels: ``[images, concepts]`` bool.
        most: Largest number of members.
        seed: Seed of the draw of the first half.

    Raises:
        ValueError: If the numbers of images differ or there are fewer than two.
    """
    images = latents.shape[0]
    if images != len(labels) or images < 2:
        raise ValueError(
            f"latents of {images} images and labels of {len(labels)} were given: two halves need two images at least"
        )
    active = sparse.csc_matrix(sparse.csr_matrix(latents) > 0, dtype=np.float64)
    labels = np.asarray(labels, dtype=bool)
    order = np.random.default_rng(seed).permutation(images)
    first, second = np.sort(order[: images // 2]), np.sort(order[images // 2 :])
    members = [
        group
        for start in range(0, labels.shape[1], LABEL_BLOCK)
        for group in _choose(active[first], labels[first, start : start + LABEL_BLOCK], most)
    ]
    chosen, _ = _scored(active[first], labels[first], members)
    return CoalitionScores(members, chosen, *_scored(active[second], labels[second], members))


def coalition_activity(latents: sparse.spmatrix | np.ndarray | Tensor, members: Sequence[Sequence[int]]) -> np.ndarray:
    """Whether any member of each coalition is active, ``[images, coalitions]`` bool.

    Args:
        latents: ``[images, neurons]``, a matrix of numpy, scipy or torch (dense or sparse COO).
        members: Neurons of each coalition.
    """
    if isinstance(latents, Tensor):
        rows, owners, values = (part.cpu().numpy() for part in entries_of(latents))
        latents = sparse.csr_matrix((values, (rows, owners)), tuple(latents.shape))
    owner = np.repeat(np.arange(len(members)), [len(group) for group in members])
    chosen = np.array([neuron for group in members for neuron in group], dtype=int)
    columns = sparse.csc_matrix(latents)[:, chosen] > 0
    belongs = sparse.csr_matrix((np.ones(len(chosen)), (np.arange(len(chosen)), owner)), (len(chosen), len(members)))
    return (columns.astype(np.float64) @ belongs).toarray() > 0


def _choose(active: sparse.csc_matrix, labels: np.ndarray, most: int) -> list[list[int]]:
    labelled = labels.sum(0)
    members: list[list[int]] = [[] for _ in labelled]
    covered = np.zeros(labels.shape, dtype=bool)
    best = np.zeros(len(labelled))
    growing = np.flatnonzero(labelled)
    for _ in range(most):
        if not len(growing):
            break
        on, hit = covered[:, growing], covered[:, growing] & labels[:, growing]
        more, more_hits = (active.T @ part.astype(np.float64) for part in (~on, ~on & labels[:, growing]))
        score = f_score(hit.sum(0) + more_hits, on.sum(0) + more, labelled[growing], BETA)
        choice = score.argmax(0)
        score = score[choice, np.arange(len(growing))]
        raises = score > best[growing] + ROUNDING
        growing, choice = growing[raises], choice[raises]
        best[growing] = score[raises]
        covered[:, growing] |= active[:, choice].toarray() > 0
        for label, neuron in zip(growing, choice.tolist()):
            members[label].append(neuron)
    return members


def _scored(
    active: sparse.csc_matrix, labels: np.ndarray, members: Sequence[Sequence[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """F0.5 of coalitions on these images, and that of chance."""
    on, labelled = coalition_activity(active, members), labels.sum(0)
    score = f_score((on & labels).sum(0), on.sum(0), labelled, BETA)
    return score, f_score(on.sum(0) * labelled / len(labels), on.sum(0), labelled, BETA)


class Coalitions(GroundTruth):
    """:func:`coalitions` over a stream of batches; keeps what is active, as a greedy choice looks at all of it again.

    Args:
        neurons: Number of neurons.
        most: Largest number of members.
        seed: Seed of the draw of the first half, among images by ascending id.
    """

    def __init__(self, neurons: int, most: int = MOST, seed: int = 0):
        super().__init__(neurons)
        self.most, self.seed = most, seed

    def compute(self) -> CoalitionScores:  # type: ignore[override]
        """The coalitions and their scores.

        Raises:
            ValueError: If fewer than two images were given.
        """
        return coalitions(*self.whole(), self.most, self.seed)
