"""Siblings: does a concept have neurons that its siblings, the other concepts of its kind, do not share?

After ViSAEBench's absorption, which calls a class absorbed if either of two rules holds, scores probes on the images
that they are fitted on, and compares a class with a group that it is in itself. Here both rules are told apart, probes
are read on other images, and the group is the siblings alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cbsae_hub.metrics.f_score import f_score
from cbsae_hub.metrics.sparse_probing import (
    L2,
    SEEDS,
    TEST,
    Latents,
    columns_of,
    drawn_of_each,
    explained_by,
    fit_on,
    ranked,
    read_on,
)

TOP, NARROW, WIDE = 10, 1, 4
LEAST = 3  # siblings with the concept itself, and images of a concept and of its siblings


@dataclass
class SiblingScores:
    """One entry per pair of a kind and one of its concepts.

    Attributes:
        pairs: ``[pairs, 2]``, numbers of kind and concept.
        overlap: ``[pairs]``, Jaccard index of the ten neurons that are most active on the concept's images, and on its
            siblings'.
        narrow: ``[pairs, seeds]``, F1 of the probe of the best neuron that tells the concept from its siblings.
        wide: ``[pairs, seeds]``, F1 of the probe of the four best.
    """

    pairs: np.ndarray
    overlap: np.ndarray
    narrow: np.ndarray
    wide: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Gain of four neurons over one, ``[pairs, seeds]``: large if one neuron is too broad."""
        return self.wide - self.narrow


def siblings(
    latents: Latents,
    targets: np.ndarray,
    kinds: np.ndarray,
    top: int = TOP,
    seeds: Sequence[int] = SEEDS,
    test: float = TEST,
    l2: float = L2,
) -> SiblingScores:
    """Compares the neurons of each concept with those of its siblings.

    Args:
        latents: ``[images, neurons]``, image-level.
        targets: ``[images]``, the concept that each image shows, from 0; -1 for images that do not count.
        kinds: ``[kinds, concepts]`` bool, the concepts of each kind. Those with fewer than three are left out, and so
            are concepts with fewer than three images.
        top: Neurons that are compared.
        seeds: Seeds of the draw of the test images, the same share of the concept and of its siblings.
        test: That share.
        l2: See :func:`cbsae_hub.metrics.linear_probe.fit_probe`.

    Raises:
        ValueError: If the numbers of images differ.
    """
    if latents.shape[0] != len(targets):
        raise ValueError(f"latents of {latents.shape[0]} images and targets of {len(targets)} were given")
    rows = sparse.csr_matrix(latents, dtype=np.float64)
    pairs: list[tuple[int, int]] = []
    overlaps, scores = [], []
    for kind, members in enumerate(np.asarray(kinds, dtype=bool)):
        concepts = np.flatnonzero(members)
        inside = np.flatnonzero(np.isin(targets, concepts))
        if len(concepts) < LEAST:
            continue
        part, present = sparse.csc_matrix(rows[inside]), targets[inside]
        for concept in concepts:
            own = present == concept
            if min(own.sum(), (~own).sum()) < LEAST:
                continue
            first, second = (_strongest(part, which, top) for which in (own, ~own))
            pairs.append((kind, int(concept)))
            overlaps.append(len(first & second) / max(1, len(first | second)))
            scores.append([_probes(part, own, drawn_of_each(own, test, seed), l2) for seed in seeds])
    narrow, wide = np.array(scores).reshape(-1, len(seeds), 2).transpose(2, 0, 1)
    return SiblingScores(np.array(pairs, dtype=int).reshape(-1, 2), np.array(overlaps), narrow, wide)


def _strongest(latents: sparse.csc_matrix, which: np.ndarray, top: int) -> set[int]:
    """The neurons of the largest mean on some images, of those that are active there."""
    means = np.asarray(latents[which].mean(0)).ravel()
    return {int(neuron) for neuron in ranked(means, top) if means[neuron] > 0}


def _probes(latents: sparse.csc_matrix, own: np.ndarray, read: np.ndarray, l2: float) -> list[float]:
    """F1 of the narrow and of the wide probe on test images."""
    rows = sparse.csr_matrix(latents)
    fitted, others = (sparse.csc_matrix(rows[part]) for part in (~read, read))
    best = ranked(explained_by(fitted, own[~read, None])[:, 0], WIDE)
    values = []
    for count in (NARROW, WIDE):
        probe = fit_on(columns_of(fitted, best[:count]), own[~read], 2, l2)
        on = read_on(probe, columns_of(others, best[:count])) @ (-1, 1) > 0
        values.append(float(f_score((on & own[read]).sum(), on.sum(), own[read].sum(), 1.0)))
    return values
