"""The worth of a name as a simulation of its neuron: a judge's similarity to the name, against the activation.

The images must not be those that the neuron was named with, and the judge not the one that named it.

Source: correlation as in Oikarinen and Weng, Linear explanations for individual neurons, ICML 2024. Both kinds of score
pass the sanity tests of Oikarinen et al., Evaluating neuron explanations, ICML 2025 (arXiv 2506.05774).
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cbsae_hub.metrics.ground_truth import ground_truth_scores

NEURON_BLOCK = 512


@dataclass(frozen=True)
class Simulation:
    """Scores of the names of neurons as simulations, ``[neurons]`` float64 each.

    NaN stands for a neuron without a name, and for one that never fires on these images or is constant on them.

    Attributes:
        correlation: Pearson's correlation of activation and similarity to the name.
        average_precision: Average precision with which the similarity tells the images on which the neuron fires.
        correlation_null: Mean correlation with names of other neurons: what any name is worth.
        average_precision_null: Mean average precision with those.
        percentile: Share of those whose correlation is lower.
    """

    correlation: np.ndarray
    average_precision: np.ndarray
    correlation_null: np.ndarray
    average_precision_null: np.ndarray
    percentile: np.ndarray


def simulate_names(
    latents: sparse.spmatrix | np.ndarray, similarities: np.ndarray, own: np.ndarray, others: int = 100, seed: int = 0
) -> Simulation:
    """Scores every neuron's name, and as a null the names of other neurons.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        similarities: ``[images, names]``, a judge's similarity to each different name.
        own: ``[neurons]`` int, the column of each neuron's name; -1 for none.
        others: Number of names that are drawn as the null; a neuron's own does not count for it.
        seed: Seed of that draw.

    Raises:
        ValueError: If the numbers of images differ or are 0, or a value is not finite.
    """
    columns = _checked(latents, similarities)
    own = np.asarray(own)
    neurons, names = columns.shape[1], similarities.shape[1]
    correlation, precision = np.full(neurons, np.nan), np.full(neurons, np.nan)
    fires = _fires(columns)
    usable = np.flatnonzero((own >= 0) & (np.diff(fires.indptr) > 0))
    for start in range(0, len(usable), NEURON_BLOCK):
        part = usable[start : start + NEURON_BLOCK]
        correlation[part] = correlations(columns[:, part], similarities[:, own[part]])
    for name in np.unique(own[usable]):
        part = usable[own[usable] == name]
        precision[part] = average_precisions(fires[:, part], similarities[:, name])
    drawn = np.sort(np.random.default_rng(seed).permutation(names)[:others])
    null = [np.full((len(drawn), neurons), np.nan) for _ in range(2)]
    for row, name in enumerate(drawn):
        part = usable[own[usable] != name]
        if len(part):
            null[0][row, part] = correlations(columns[:, part], similarities[:, [name]])
            null[1][row, part] = average_precisions(fires[:, part], similarities[:, name])
    compared = np.isfinite(null[0])
    with np.errstate(invalid="ignore"):
        percentile = (np.where(compared, null[0], np.inf) < correlation).sum(0) / compared.sum(0)
    return Simulation(correlation, precision, _mean(null[0]), _mean(null[1]), percentile)


def correlations(latents: sparse.spmatrix | np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each neuron with its prediction, ``[neurons]``; NaN where either is constant.

    Args:
        latents: ``[images, neurons]``.
        predictions: ``[images, neurons]``, or ``[images, 1]`` for one prediction of all.

    Raises:
        ValueError: If the numbers of images differ or are 0, or a value is not finite.
    """
    columns = _checked(latents, predictions)
    images = columns.shape[0]
    centred = predictions - predictions.mean(0)
    products = columns.T @ centred[:, 0] if centred.shape[1] == 1 else columns.multiply(centred).sum(0)
    mean = np.asarray(columns.sum(0)).ravel() / images
    owner = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
    # About the mean: of a neuron that hardly varies, a difference of squares would leave only rounding.
    squares = np.bincount(owner, (columns.data - mean[owner]) ** 2, minlength=columns.shape[1])
    squares += (images - np.diff(columns.indptr)) * mean**2
    lengths = np.sqrt(squares) * np.linalg.norm(centred, axis=0)
    constant = (squares <= 1e-24 * images * mean**2) | (np.ptp(predictions, axis=0) == 0)
    return np.where(constant, np.nan, np.asarray(products).ravel() / np.where(constant, 1, lengths))


def average_precisions(fires: sparse.spmatrix | np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Average precision with which a prediction tells the images on which each neuron fires, ``[neurons]``.

    Args:
        fires: ``[images, neurons]`` bool.
        prediction: ``[images]``.
    """
    return ground_truth_scores(prediction[:, None], fires).average_precision[0]


def _checked(latents: sparse.spmatrix | np.ndarray, predictions: np.ndarray) -> sparse.csc_matrix:
    """Latents by columns, float64; raises a ValueError if they do not go with the predictions."""
    if latents.shape[0] != len(predictions) or not latents.shape[0]:
        raise ValueError(f"latents of {latents.shape[0]} images and similarities of {len(predictions)} were given")
    columns = sparse.csc_matrix(latents, dtype=np.float64)
    if not np.isfinite(columns.data).all() or not np.isfinite(predictions).all():
        raise ValueError("latents or similarities are NaN or infinite")
    return columns


def _fires(columns: sparse.csc_matrix) -> sparse.csc_matrix:
    """``[images, neurons]`` bool, stored where a neuron is active: signed ones only where they are positive."""
    fires = sparse.csc_matrix(columns > 0)
    fires.eliminate_zeros()
    return fires


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over rows of what is defined; NaN where nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan)
