"""Neurons as detectors of labels: average precision and area under the ROC curve of every pair."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch, entries_of
from cbsae_hub.metrics.streaming import StreamingMetric

NEURON_BLOCK = 4096


@dataclass
class GroundTruthScores:
    """Scores of each neuron as a detector of each label.

    Attributes:
        average_precision: ``[neurons, labels]`` float64. ``sum over thresholds of (recall step) * precision``, the
            thresholds being the distinct activations: images of equal activation come together, and all silent ones.
        auroc: ``[neurons, labels]`` float64: how often an image with the label has the larger activation than one
            without, ties counting half.
        prevalence: ``[labels]``, share of the images: the average precision of a neuron that knows nothing.

    NaN stands for labels that no image has, in ``auroc`` also for those that all have.
    """

    average_precision: np.ndarray
    auroc: np.ndarray
    prevalence: np.ndarray

    def lift(self) -> np.ndarray:
        """Average precision between that of chance, 0, and a perfect 1: comparable between rare and common labels."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.average_precision - self.prevalence) / (1 - self.prevalence)


def ground_truth_scores(
    latents: sparse.spmatrix | np.ndarray, labels: sparse.spmatrix | np.ndarray
) -> GroundTruthScores:
    """Scores of every neuron as a detector of every label.

    Equal to scikit-learn's ``average_precision_score`` and ``roc_auc_score`` of each pair, at the cost of active images
    times the labels that an image has: pairs that never meet cost nothing.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        labels: ``[images, labels]`` bool, dense or sparse.

    Raises:
        ValueError: If the numbers of images differ or are 0, an activation is not finite, or a sparse matrix has
            negative activations of a neuron that is not stored for every image: give signed neurons densely.
    """
    columns = sparse.csc_matrix(latents, dtype=np.float64) if sparse.issparse(latents) else None
    images, neurons = latents.shape
    if images != labels.shape[0] or not images:
        raise ValueError(f"latents of {images} images and labels of {labels.shape[0]} were given")
    if not np.isfinite(latents.data if sparse.issparse(latents) else latents).all():
        raise ValueError("latents are NaN or infinite")
    truth = sparse.csr_matrix(labels, dtype=bool)
    truth.eliminate_zeros()
    totals = np.bincount(truth.indices, minlength=truth.shape[1]).astype(np.float64)
    blocks = []
    for start in range(0, neurons, NEURON_BLOCK):
        stop = min(start + NEURON_BLOCK, neurons)
        block = columns[:, start:stop] if columns is not None else _all_stored(latents[:, start:stop])
        blocks.append(_score(block, truth, totals))
    precision, auroc = (np.concatenate(parts) for parts in zip(*blocks))
    return GroundTruthScores(precision, auroc, np.where(totals > 0, totals / images, np.nan))


def _all_stored(latents: np.ndarray) -> sparse.csc_matrix:
    """A dense block as a sparse matrix that stores its zeros too."""
    images, neurons = latents.shape
    values = np.asarray(latents, dtype=np.float64).T.ravel()
    return sparse.csc_matrix(
        (values, np.tile(np.arange(images), neurons), np.arange(neurons + 1) * images), latents.shape
    )


def _score(columns: sparse.csc_matrix, truth: sparse.csr_matrix, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, neurons = columns.shape
    labels = len(totals)
    stored = np.diff(columns.indptr)
    owner = np.repeat(np.arange(neurons), stored)
    if (columns.data < 0).any() and (stored[owner[columns.data < 0]] < images).any():
        raise ValueError("neurons with negative activations must be given for every image: pass them densely")
    order = np.lexsort((-columns.data, owner))
    owner, values, rows = owner[order], columns.data[order], columns.indices[order]
    first, last = _runs(owner, values)
    begin = columns.indptr[owner]
    # Ranks from the largest, 1-based, of the first and the last of each run of equal activations.
    first, last = first - begin + 1, last - begin + 1
    rank_of_silent = (images - stored + 1) / 2  # from the smallest; they follow, all with one rank
    rank = images - (first + last) / 2 + 1

    # One entry for each label of each stored image, sorted by pair of neuron and label, then by rank.
    per_image = np.diff(truth.indptr)[rows]
    entry = np.repeat(np.arange(len(rows)), per_image)
    place = np.arange(len(entry)) - np.repeat(per_image.cumsum() - per_image, per_image)
    pair = owner[entry].astype(np.int64) * labels + truth.indices[truth.indptr[rows[entry]] + place]
    by_pair = np.argsort(pair, kind="stable")
    pair, entry = pair[by_pair], entry[by_pair]
    _, end = _runs(pair, last[entry])
    start_of_pair, _ = _runs(pair, pair)
    hits = end - start_of_pair + 1  # images with the label down to this activation

    size = neurons * labels
    stored_hits = np.bincount(pair, minlength=size).reshape(neurons, labels)
    precisions = np.bincount(pair, hits / last[entry], minlength=size).reshape(neurons, labels)
    ranks = np.bincount(pair, (rank - rank_of_silent[owner])[entry], minlength=size).reshape(neurons, labels)
    positives = np.where(totals > 0, totals, np.nan)
    # The other images with the label come in only with the threshold that lets every image through.
    precision = (precisions + (totals - stored_hits) * totals / images) / positives
    ranks = ranks + totals * rank_of_silent[:, None]
    others = np.where(totals < images, images - totals, np.nan)
    return precision, (ranks - totals * (totals + 1) / 2) / (positives * others)


def _runs(major: np.ndarray, minor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end (inclusive) of the run of equal pairs that each of the sorted pairs of keys belongs to."""
    new = np.r_[True, (major[1:] != major[:-1]) | (minor[1:] != minor[:-1])][: len(major)]
    run = new.cumsum() - 1
    starts = np.flatnonzero(new)
    return starts[run], np.r_[starts[1:], len(major)][run] - 1


class GroundTruth(StreamingMetric):
    """:func:`ground_truth_scores` over a stream of batches; keeps what is active, as exact curves need all of it.

    Args:
        neurons: Number of neurons.
    """

    rows: list[Tensor]
    owners: list[Tensor]
    values: list[Tensor]
    image_ids: list[Tensor]
    labels: list[Tensor]

    def __init__(self, neurons: int):
        super().__init__()
        self.neurons = neurons
        for name in ("rows", "owners", "values", "image_ids", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, latents: Tensor, labels: Tensor, image_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            latents: ``[images, neurons]``, image-level, dense or sparse COO.
            labels: ``[images, labels]`` bool.
            image_ids: ``[images]`` int64, different for different images.

        Raises:
            ValueError: If lengths differ, or an activation is not finite.
        """
        check_batch(latents, self.neurons, labels=labels, image_ids=image_ids)
        rows, owners, values = entries_of(latents)
        # Signed neurons are needed for every image; silence of the others need not be stored.
        active = values != 0 if not latents.is_sparse and not (values < 0).any() else torch.ones_like(values).bool()
        self.rows.append(image_ids[rows[active]].int())
        self.owners.append(owners[active].int())
        self.values.append(values[active].float())
        self.image_ids.append(image_ids)
        self.labels.append(labels)

    def whole(self) -> tuple[sparse.csc_matrix, np.ndarray]:
        """All latents ``[images, neurons]`` and labels ``[images, labels]``, images by ascending id.

        Raises:
            ValueError: If no images were given.
        """
        if not len(self.image_ids):
            raise ValueError("no images were given")
        states = self.rows, self.owners, self.values, self.image_ids, self.labels
        rows, owners, values, ids, labels = (torch.cat(state).cpu().numpy() for state in states)
        order = np.argsort(ids)
        places = np.searchsorted(ids, rows, sorter=order)
        return sparse.csc_matrix((values, (places, owners)), (len(ids), self.neurons)), labels[order]

    def compute(self) -> GroundTruthScores:
        """Scores of all pairs.

        Raises:
            ValueError: If no images were given.
        """
        return ground_truth_scores(*self.whole())


def label_matrix(rows: list[set[str]]) -> tuple[np.ndarray, list[str]]:
    """Bool matrix ``[images, labels]`` and the sorted names of the labels, from each image's set of names."""
    names = sorted(set().union(*rows))
    index = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), dtype=bool)
    for row, present in enumerate(rows):
        matrix[row, [index[name] for name in present]] = True
    return matrix, names
