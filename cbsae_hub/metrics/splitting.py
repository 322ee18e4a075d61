"""Splitting: how many neurons share one concept.

After Chanin et al., A is for absorption, 2024: the probe of the k best neurons of a concept gets another neuron as long
as that raises F1 by more than 0.03. They look at images that they rank on; here the other half is looked at.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cbsae_hub.metrics.f_score import f_score
from cbsae_hub.metrics.ground_truth import GroundTruth
from cbsae_hub.metrics.sparse_probing import L2, Latents, columns_of, explained_by, fit_on, ranked, read_on

MOST, GAIN = 8, 0.03


@dataclass
class Splits:
    """The neurons that share each concept, chosen on one half of the images and scored on the other.

    Attributes:
        members: Neurons of each concept, the one that knows most of it first; empty where no neuron knows it.
        f1: ``[concepts]``, F1 of the probe of all members.
        single: ``[concepts]``, F1 of the probe of the first alone.
        chance: ``[concepts]``, mean of ``f1`` over all permutations of the images.

    NaN stands for concepts that no image of the other half shows.
    """

    members: list[list[int]]
    f1: np.ndarray
    single: np.ndarray
    chance: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of neurons that share each concept, ``[concepts]``."""
        return np.array([len(group) for group in self.members])


def main_neurons(
    latents: Latents, labels: np.ndarray, most: int = MOST, gain: float = GAIN, l2: float = L2
) -> list[list[int]]:
    """The neurons that tell each concept, on all images that are given.

    Args:
        latents: ``[images, neurons]``, image-level.
        labels: ``[images, concepts]`` bool.
        most: Largest number of neurons of a concept.
        gain: A neuron counts if it raises F1 by more than this.
        l2: See :func:`cbsae_hub.metrics.linear_probe.fit_probe`.
    """
    columns = sparse.csc_matrix(latents)
    best = ranked(explained_by(columns, labels), min(most, columns.shape[1]))
    groups = []
    for concept, label in enumerate(labels.T):
        group: list[int] = []
        reached = 0.0
        for k in range(1, len(best) + 1) if 0 < label.sum() < len(label) else ():
            score = _f1(columns, columns, label, label, best[:k, concept], l2)[0]
            if score - reached <= gain:
                break
            group, reached = best[:k, concept].tolist(), score
        groups.append(group)
    return groups


def splitting(
    latents: Latents, labels: np.ndarray, most: int = MOST, gain: float = GAIN, seed: int = 0, l2: float = L2
) -> Splits:
    """Finds the neurons that share each concept on one half of the images, and scores them on the other.

    Args:
        latents: See :func:`main_neurons`, as ``labels``, ``most``, ``gain`` and ``l2``.
        labels: ``[images, concepts]`` bool.
        most: Largest number of neurons of a concept.
        gain: A neuron counts if it raises F1 by more than this.
        seed: Seed of the draw of the first half.
        l2: Penalty of the probes.

    Raises:
        ValueError: If the numbers of images differ or there are fewer than two.
    """
    if latents.shape[0] != len(labels) or len(labels) < 2:
        raise ValueError(
            f"latents of {latents.shape[0]} images and labels of {len(labels)} were given: two halves need two images"
        )
    rows, order = sparse.csr_matrix(latents), np.random.default_rng(seed).permutation(len(labels))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    fitted, others = (sparse.csc_matrix(rows[part]) for part in (first, second))
    members = main_neurons(fitted, labels[first], most, gain, l2)
    scores = np.zeros((3, labels.shape[1]))
    for concept, group in enumerate(members):
        sides = labels[first, concept], labels[second, concept]
        if group:
            scores[::2, concept] = _f1(fitted, others, *sides, np.array(group), l2)
            scores[1, concept] = _f1(fitted, others, *sides, np.array(group[:1]), l2)[0]
    return Splits(members, *np.where(labels[second].any(0), scores, np.nan))


def _f1(
    fitted: Latents, others: Latents, label: np.ndarray, other_label: np.ndarray, neurons: np.ndarray, l2: float
) -> tuple[float, float]:
    """F1 on other images of a probe of some neurons, and that of chance."""
    probe = fit_on(columns_of(fitted, neurons), label, 2, l2)
    on = read_on(probe, columns_of(others, neurons)) @ (-1, 1) > 0
    hits, labelled = (on & other_label).sum(), other_label.sum()
    by_chance = on.sum() * labelled / len(on)
    return float(f_score(hits, on.sum(), labelled, 1.0)), float(f_score(by_chance, on.sum(), labelled, 1.0))


class Splitting(GroundTruth):
    """:func:`splitting` over a stream of batches; keeps what is active, as a choice looks at all of it again.

    Args:
        neurons: Number of neurons.
        most: Largest number of neurons of a concept.
        gain: A neuron counts if it raises F1 by more than this.
        seed: Seed of the draw of the first half, among images by ascending id.
    """

    def __init__(self, neurons: int, most: int = MOST, gain: float = GAIN, seed: int = 0):
        super().__init__(neurons)
        self.most, self.gain, self.seed = most, gain, seed

    def compute(self) -> Splits:  # type: ignore[override]
        """The neurons and their scores.

        Raises:
            ValueError: If fewer than two images were given.
        """
        return splitting(*self.whole(), self.most, self.gain, self.seed)
