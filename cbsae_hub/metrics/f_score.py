"""F scores of detectors, from counts of images."""

import numpy as np


def f_score(hits: np.ndarray, active: np.ndarray, labelled: np.ndarray, beta: float) -> np.ndarray:
    """``(1 + beta^2) hits / (beta^2 labelled + active)``; NaN where no image has the label.

    A detector that is active on some images whatever they show hits ``active * labelled / images`` of them in the mean
    over all permutations of the images, while the rest stays: that many hits give the score of chance, exactly.

    Args:
        hits: Numbers of images with the label on which the detector is active.
        active: Numbers of images on which it is active.
        labelled: Numbers of images with the label.
        beta: Weight of recall over precision: 1 weighs both alike, 0.5 precision twice.
    """
    hits, active, labelled = (np.asarray(counts, dtype=np.float64) for counts in (hits, active, labelled))
    with np.errstate(invalid="ignore"):
        score = (1 + beta**2) * hits / (beta**2 * labelled + active)
    return np.where(labelled > 0, score, np.nan)
