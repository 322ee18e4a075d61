"""How well neurons predict labels that are known: average precision over images."""

import numpy as np
from scipy import sparse


def average_precisions(latents: sparse.spmatrix, labels: np.ndarray) -> np.ndarray:
    """Average precision of every neuron as a detector of every label.

    ``AP = sum over thresholds of (recall step) * precision``, thresholds being the distinct activations: images
    with equal activation, the inactive ones above all, come together. Equal to scikit-learn's
    ``average_precision_score`` for each pair, at a cost of active images times labels.

    Args:
        latents: ``[images, neurons]`` sparse, image-level, not negative.
        labels: ``[images, labels]`` bool.

    Returns:
        ``[neurons, labels]`` float64; NaN for labels that no image has.

    Raises:
        ValueError: If the numbers of images differ, or an activation is negative or not finite.
    """
    columns = sparse.csc_matrix(latents, dtype=np.float64)
    columns.eliminate_zeros()
    if columns.shape[0] != len(labels):
        raise ValueError(f"latents of {columns.shape[0]} images and labels of {len(labels)} were given")
    if columns.nnz and not (np.isfinite(columns.data).all() and columns.data.min() >= 0):
        raise ValueError("activations must be finite and not negative")
    truth = labels.astype(np.float32)
    totals = truth.sum(0)
    result = np.empty((columns.shape[1], labels.shape[1]))
    for neuron in range(columns.shape[1]):
        start, stop = columns.indptr[neuron : neuron + 2]
        order = np.argsort(-columns.data[start:stop], kind="stable")
        values = columns.data[start:stop][order]
        hits = truth[columns.indices[start:stop][order]].cumsum(0)
        # The last place of each run of equal activations is where a threshold can be.
        ends = np.flatnonzero(np.diff(values, append=-1.0))
        found = hits[ends]
        gains = np.diff(found, axis=0, prepend=0)
        precision = found / (ends + 1)[:, None]
        rest = totals - (found[-1] if len(ends) else 0)  # found only by the threshold that lets every image through
        result[neuron] = (gains * precision).sum(0) + rest * totals / len(labels)
    with np.errstate(invalid="ignore"):
        return result / np.where(totals > 0, totals, np.nan)


def label_matrix(rows: list[set[str]]) -> tuple[np.ndarray, list[str]]:
    """Bool matrix ``[images, labels]`` and the sorted names of the labels, from each image's set of names."""
    names = sorted(set().union(*rows))
    index = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)), dtype=bool)
    for row, present in enumerate(rows):
        matrix[row, [index[name] for name in present]] = True
    return matrix, names
