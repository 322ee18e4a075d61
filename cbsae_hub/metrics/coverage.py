"""From names of neurons to what is said of a whole model: coverage of a concept set, scores on a common scale."""

import numpy as np

NORMALISATIONS = ("minmax", "robust", "rank")


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


def to_unit_interval(scores: np.ndarray, method: str = "minmax") -> np.ndarray:
    """Scores of a population on 0..1, so that different scores can be added (CB-SAE paper, section 5.1).

    Args:
        scores: ``[neurons]``; NaN, a neuron without a score, stays NaN.
        method: "minmax" (the paper's reading: smallest 0, largest 1), "robust" (the same with the 0.5th and 99.5th
            percentile, beyond which it is cut), or "rank" (average rank).

    Returns:
        ``[neurons]`` float64; all 0 if all scores are equal: they tell nothing apart.

    Raises:
        ValueError: If the method is unknown or a score is infinite.
    """
    if method not in NORMALISATIONS:
        raise ValueError(f"method must be one of {', '.join(NORMALISATIONS)}, got {method!r}")
    scores = np.asarray(scores, dtype=np.float64)
    if np.isinf(scores).any():
        raise ValueError("scores are infinite")
    known = scores[~np.isnan(scores)]
    if not len(known):
        return scores.copy()
    if method == "rank":
        ascending = np.sort(known)
        ties = np.searchsorted(ascending, scores, "left") + np.searchsorted(ascending, scores, "right") - 1
        scores = np.where(np.isnan(scores), np.nan, ties / 2)
        known = scores[~np.isnan(scores)]
    low, high = np.percentile(known, (0.5, 99.5)) if method == "robust" else (known.min(), known.max())
    if high == low:
        return np.where(np.isnan(scores), np.nan, 0.0)
    return np.clip((scores - low) / (high - low), 0, 1)
