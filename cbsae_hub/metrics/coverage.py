"""Coverage of a concept set by the names of a model's neurons."""

import numpy as np


def best_by_concept(concepts: np.ndarray, scores: np.ndarray, total: int) -> np.ndarray:
    """The best score of the neurons that have a concept as their name.

    Args:
        concepts: ``[neurons]``, the index of each neuron's name; -1 for none.
        scores: ``[neurons]``, the worth of the name.
        total: Number of concepts, without duplicates: only one of two equal strings could ever be a name.

    Returns:
        ``[total]``, -inf for a concept that is no neuron's name.
    """
    best = np.full(total, -np.inf)
    concepts, scores = np.asarray(concepts), np.asarray(scores, dtype=np.float64)
    np.maximum.at(best, concepts[concepts >= 0], scores[concepts >= 0])
    return best


def coverage(best: np.ndarray, thresholds: np.ndarray | float = -np.inf) -> np.ndarray:
    """Share of the concepts that are the name of some neuron with at least that score (CB-SAE paper, table 5).

    Args:
        best: ``[concepts]``, from :func:`best_by_concept`.
        thresholds: Any number of scores; the default counts every name.

    Returns:
        Shares, in the form of the thresholds.

    Raises:
        ValueError: If there are no concepts.
    """
    if not len(best):
        raise ValueError("there are no concepts to cover")
    ascending = np.sort(best[best > -np.inf])
    return (len(ascending) - np.searchsorted(ascending, thresholds)) / len(best)
