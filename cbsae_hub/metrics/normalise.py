"""Scores on 0..1, so that different ones can be added or drawn on one axis."""

import numpy as np

NORMALISATIONS = ("minmax", "robust", "rank")


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
    defined = scores[~np.isnan(scores)]
    if not len(defined):
        return scores.copy()
    if method == "rank":
        ascending = np.sort(defined)
        ties = np.searchsorted(ascending, scores, "left") + np.searchsorted(ascending, scores, "right") - 1
        scores = np.where(np.isnan(scores), np.nan, ties / 2)
        defined = scores[~np.isnan(scores)]
    low, high = np.percentile(defined, (0.5, 99.5)) if method == "robust" else (defined.min(), defined.max())
    if high == low:
        return np.where(np.isnan(scores), np.nan, 0.0)
    return np.clip((scores - low) / (high - low), 0, 1)


def text_to_unit_interval(cosines: np.ndarray) -> np.ndarray:
    """Text scores as 0..1: words that have less than nothing to do with the concept have nothing to do with it."""
    return np.clip(cosines, 0.0, None)


def image_to_unit_interval(cosines: np.ndarray) -> np.ndarray:
    """Image scores as 0..1, ``(1 + cos) / 2``: the only reading of DINO's cosines that gives the paper's figures."""
    return (1 + np.asarray(cosines)) / 2
