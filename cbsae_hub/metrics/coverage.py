"""Coverage of a concept set by the names of a model's neurons."""

import numpy as np


def best_by_concept(concepts: np.ndarray, scores: np.ndarray, total: int) -> np.ndarray:
    """The best score of the neurons that have a concept as their name.

    Args:
        concepts: ``[neurons]``, the index of each neuron's name; -1 for none.
        scores: ``[neurons]``, what the name is worth.
        total: Number of concepts, without duplicates: of two equal strings only one could ever be a name.

    Returns:
        ``[total]``, -inf where no neuron is named so.
    """
    best = np.full(total, -np.inf)
    named = np.asarray(concepts) >= 0
    np.maximum.at(best, np.asarray(concepts)[named], np.asarray(scores, dtype=np.float64)[named])
    return best


def coverage(best: np.ndarray, thresholds: np.ndarray | float = -np.inf) -> np.ndarray:
    """Share of the concepts that are the name of some neuron with at least that score (CB-SAE paper, table 5).

    Args:
        best: ``[concepts]``, from :func:`best_by_concept`.
        thresholds: Any number of scores; the default counts every name, whatever it is worth.

    Returns:
        Shares, in the form of the thresholds.

    Raises:
        ValueError: If there are no concepts.
    """
    if not len(best):
        raise ValueError("there are no concepts to cover")
    ascending = np.sort(best[best > -np.inf])
    return (len(ascending) - np.searchsorted(ascending, thresholds)) / len(best)
