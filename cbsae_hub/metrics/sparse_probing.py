"""Sparse probes: how well the few neurons that know most of a concept, or of classes, tell it, beside a dense probe.

Sources: Gurnee et al., Finding neurons in a haystack, 2023; SAEBench; ViSAEBench's sparse probing, which ranks neurons
on the images that it then tests on. Here neurons are ranked on the training images alone, of several draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import integrate, sparse
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.metrics.ground_truth import GroundTruth, ground_truth_scores
from cbsae_hub.metrics.latents import check_batch
from cbsae_hub.metrics.linear_probe import Features, LinearProbe, fit_probe

Latents: TypeAlias = sparse.spmatrix | np.ndarray

KS = (1, 2, 5, 10, 20, 50)
SEEDS = (0, 1, 2)
TEST = 0.2  # share of the images that probes are read on
L2 = 1e-3


def explained_by(latents: Latents, labels: np.ndarray) -> np.ndarray:
    """Share of each neuron's variance that each label explains, ``[neurons, labels]``; 0 where there is none.

    It orders neurons as ANOVA's F of two groups does, which is ``(images - 2) e / (1 - e)``.

    Args:
        latents: ``[images, neurons]``, image-level.
        labels: ``[images, labels]`` bool.
    """
    sums, total, squares = _moments(latents, labels)
    counts, images = labels.sum(0), len(labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = sums**2 / counts + (total[:, None] - sums) ** 2 / (images - counts) - total[:, None] ** 2 / images
    return _share(between, (squares - total**2 / images)[:, None])


def explained_by_classes(latents: Latents, targets: np.ndarray) -> np.ndarray:
    """Share of each neuron's variance that the classes explain together, ``[neurons]``; see :func:`explained_by`.

    Args:
        latents: ``[images, neurons]``, image-level.
        targets: ``[images]``, the class of each image, from 0.
    """
    members = np.eye(targets.max() + 1, dtype=bool)[targets]
    members = members[:, members.any(0)]
    sums, total, squares = _moments(latents, members)
    between = (sums**2 / members.sum(0)).sum(1) - total**2 / len(targets)
    return _share(between, squares - total**2 / len(targets))


def _moments(latents: Latents, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the neurons over the images of each label, and over all images of their values and squares."""
    matrix = sparse.csr_matrix(latents, dtype=np.float64)
    totals = (np.asarray(part.sum(0)).ravel() for part in (matrix, matrix.multiply(matrix)))
    return matrix.T @ labels.astype(np.float64), *totals  # type: ignore[return-value]  # two totals


def _share(between: np.ndarray, variance: np.ndarray) -> np.ndarray:
    defined = np.isfinite(between) & (variance > 0)
    return np.where(defined, between, 0.0).clip(0) / np.where(variance > 0, variance, 1.0)


def ranked(shares: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` neurons of the largest shares, of equal ones the first: ``[count]`` or ``[count, labels]``."""
    return np.argsort(-shares, axis=0, kind="stable")[:count]


def columns_of(latents: Latents, neurons: np.ndarray) -> np.ndarray:
    """The latents of some neurons, dense, ``[images, count]`` float64."""
    part = latents[:, neurons]
    return np.asarray(part if isinstance(part, np.ndarray) else part.toarray(), dtype=np.float64)


def fit_on(x: np.ndarray, targets: np.ndarray, classes: int, l2: float) -> LinearProbe:
    """A logistic regression on standardised columns, see :func:`cbsae_hub.metrics.linear_probe.fit_probe`."""
    return fit_probe(Features(torch.from_numpy(x)[:, None]), torch.from_numpy(targets.astype(np.int64)), classes, l2)


def read_on(probe: LinearProbe, x: np.ndarray) -> np.ndarray:
    """Logits of a probe, ``[images, classes]``."""
    return probe.logits(Features(torch.from_numpy(x)[:, None])).numpy()


@dataclass
class SparseProbingScores:
    """Average precision of probes on images that they were neither fitted on nor ranked on.

    Attributes:
        ks: Numbers of neurons.
        average_precision: ``[seeds, concepts, ks]``.
        dense: ``[seeds, concepts]``, of the probe of the raw activations; NaN if none were given.
        chance: ``[seeds, concepts]``, share of the test images with the concept: what a probe scores that knows
            nothing.
        neurons: ``[seeds, concepts, largest k]``, the neurons, the best first.

    NaN stands for concepts that all images of one side have, or none.
    """

    ks: tuple[int, ...]
    average_precision: np.ndarray
    dense: np.ndarray
    chance: np.ndarray
    neurons: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Lead of the dense probe over k neurons, ``[seeds, concepts, ks]``."""
        return self.dense[..., None] - self.average_precision


def sparse_probing(
    latents: Latents,
    labels: np.ndarray,
    activations: np.ndarray | None = None,
    ks: Sequence[int] = KS,
    seeds: Sequence[int] = SEEDS,
    test: float = TEST,
    l2: float = L2,
) -> SparseProbingScores:
    """Fits a probe of the k best neurons of each concept, and reads it on other images.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        labels: ``[images, concepts]`` bool.
        activations: Raw activations ``[images, d]``, for a dense probe with the same solver.
        ks: Numbers of neurons.
        seeds: Seeds of the draw of the test images.
        test: Share of the images that probes are read on.
        l2: See :func:`cbsae_hub.metrics.linear_probe.fit_probe`.

    Raises:
        ValueError: If the numbers of images differ, or a k is no number of the neurons.
    """
    ks = checked_ks(ks, latents.shape[1])
    _same_length(latents, labels=labels, activations=activations)
    rows, most = sparse.csr_matrix(latents), max(ks)
    shape = len(seeds), labels.shape[1]
    precision, dense, chance = np.full((*shape, len(ks)), np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    neurons = np.zeros((*shape, most), dtype=np.int64)
    for number, seed in enumerate(seeds):
        read = np.zeros(len(labels), dtype=bool)
        read[np.random.default_rng(seed).permutation(len(labels))[: round(test * len(labels))]] = True
        fitted, others = (sparse.csc_matrix(rows[part]) for part in (~read, read))
        best = ranked(explained_by(fitted, labels[~read]), most)
        for concept in tqdm(range(shape[1]), desc=f"sparse probes, draw {number + 1}", unit="concept", leave=False):
            sides = labels[~read, concept], labels[read, concept]
            if any(side.all() or not side.any() for side in sides):
                continue
            neurons[number, concept] = best[:, concept]
            pairs = [(columns_of(fitted, best[:k, concept]), columns_of(others, best[:k, concept])) for k in ks]
            if activations is not None:
                pairs.append((activations[~read].astype(np.float64), activations[read].astype(np.float64)))
            logits = [read_on(fit_on(x, sides[0], 2, l2), y) @ (-1, 1) for x, y in pairs]
            scores = ground_truth_scores(np.stack(logits, 1), sides[1][:, None]).average_precision[:, 0]
            precision[number, concept], chance[number, concept] = scores[: len(ks)], sides[1].mean()
            if activations is not None:
                dense[number, concept] = scores[-1]
    return SparseProbingScores(ks, precision, dense, chance, neurons)


@dataclass
class ClassProbingScores:
    """Accuracies of probes of all classes.

    Attributes:
        ks: Numbers of neurons.
        accuracy: ``[seeds, ks]``.
        dense: ``[seeds]``, of the probe of the raw activations; NaN if none were given.
        chance: ``[seeds]``, share of the most frequent class among the test images.
    """

    ks: tuple[int, ...]
    accuracy: np.ndarray
    dense: np.ndarray
    chance: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """Area under the accuracy over k by the trapezoidal rule, over the range of k: ``[seeds]``, 0 to 1."""
        if len(self.ks) == 1:
            return self.accuracy[:, 0]
        return integrate.trapezoid(self.accuracy, self.ks, axis=1) / (self.ks[-1] - self.ks[0])


def class_probing(
    latents: Latents,
    targets: np.ndarray,
    activations: np.ndarray | None = None,
    ks: Sequence[int] = (1, 5, 10, 20, 50, 100),
    seeds: Sequence[int] = SEEDS,
    test: float = TEST,
    l2: float = L2,
) -> ClassProbingScores:
    """Fits one probe of all classes on the k neurons whose variance the classes explain best (ViSAEBench's M4).

    Args:
        latents: ``[images, neurons]``, image-level.
        targets: ``[images]``, the class of each image, from 0.
        activations: Raw activations ``[images, d]``, for a dense probe with the same solver.
        ks: Numbers of neurons.
        seeds: Seeds of the draw of the test images, the same share of each class.
        test: That share.
        l2: See :func:`cbsae_hub.metrics.linear_probe.fit_probe`.

    Raises:
        ValueError: See :func:`sparse_probing`; or a class has a single image.
    """
    ks = checked_ks(ks, latents.shape[1])
    _same_length(latents, targets=targets, activations=activations)
    rows, classes = sparse.csr_matrix(latents), int(targets.max()) + 1
    accuracy, dense, chance = np.zeros((len(seeds), len(ks))), np.full(len(seeds), np.nan), np.zeros(len(seeds))
    for number, seed in enumerate(seeds):
        read = drawn_of_each(targets, test, seed)
        fitted, others = (sparse.csc_matrix(rows[part]) for part in (~read, read))
        best = ranked(explained_by_classes(fitted, targets[~read]), max(ks))

        def right(x: np.ndarray, y: np.ndarray, read: np.ndarray = read) -> float:
            logits = read_on(fit_on(x, targets[~read], classes, l2), y)
            return float((logits.argmax(1) == targets[read]).mean())

        accuracy[number] = [right(columns_of(fitted, best[:k]), columns_of(others, best[:k])) for k in ks]
        chance[number] = np.bincount(targets[read]).max() / read.sum()
        if activations is not None:
            dense[number] = right(*(activations[part].astype(np.float64) for part in (~read, read)))
    return ClassProbingScores(ks, accuracy, dense, chance)


def drawn_of_each(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Bool ``[images]``: a share of each class's images, at least one, and at least one is left.

    Raises:
        ValueError: If a class has a single image.
    """
    rng, drawn = np.random.default_rng(seed), np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        own = rng.permutation(np.flatnonzero(targets == label))
        if len(own) < 2:
            raise ValueError(f"class {label} has a single image: one to fit and one to read on are needed")
        drawn[own[: int(np.clip(round(share * len(own)), 1, len(own) - 1))]] = True
    return drawn


def checked_ks(ks: Sequence[int], neurons: int) -> tuple[int, ...]:
    """The numbers of neurons in order; raises ValueError if one cannot be."""
    if not ks or not 1 <= min(ks) <= max(ks) <= neurons:
        raise ValueError(f"ks must be numbers from 1 to the {neurons} neurons, got {list(ks)}")
    return tuple(sorted(set(ks)))


def _same_length(latents: Latents, **others: np.ndarray | None) -> None:
    for name, one in others.items():
        if one is not None and len(one) != latents.shape[0]:
            raise ValueError(f"latents of {latents.shape[0]} images and {name} of {len(one)} were given")


class SparseProbing(GroundTruth):
    """:func:`sparse_probing` over a stream of batches; keeps what is active, as a probe reads all of it again.

    Args:
        neurons: Number of neurons.
        **options: ``ks``, ``seeds``, ``test`` and ``l2``; test images are drawn among images by ascending id.
    """

    activations: list[Tensor]

    def __init__(self, neurons: int, **options: Any):
        super().__init__(neurons)
        self.options = options
        self.add_state("activations", default=[], dist_reduce_fx="cat")

    def update(  # type: ignore[override]  # it may get activations, too
        self, latents: Tensor, labels: Tensor, image_ids: Tensor, activations: Tensor | None = None
    ) -> None:
        """Adds a batch, see :meth:`GroundTruth.update`; ``activations [images, d]`` with every batch, or with none.

        Raises:
            ValueError: See :meth:`GroundTruth.update`.
        """
        if activations is not None:
            check_batch(latents, self.neurons, activations=activations)
            self.activations.append(activations.float())
        super().update(latents, labels, image_ids)

    def compute(self) -> SparseProbingScores:  # type: ignore[override]
        """The scores.

        Raises:
            ValueError: See :func:`sparse_probing`; or no images were given.
        """
        latents, labels = self.whole()
        raw = None
        if self.activations:
            raw = torch.cat(self.activations)[torch.cat(self.image_ids).argsort()].cpu().numpy()
        return sparse_probing(latents, labels, raw, **self.options)
