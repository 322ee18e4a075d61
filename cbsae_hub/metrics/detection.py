"""Detection: does a judge tell by an explanation images on which a neuron fires from images on which it does not?

After Paulo et al., Automatically interpreting millions of features in large language models, 2024, where a language
model answers yes or no for each text. Here the judge is a model that compares an image with the explanation: of as many
images that fire as do not, it says yes to the half that is most similar.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse


class Trial(NamedTuple):
    """Images of one neuron's test: as many on which it fires as on which it does not."""

    firing: np.ndarray
    silent: np.ndarray


def draw_trials(latents: sparse.spmatrix | np.ndarray, count: int, seed: int = 0) -> list[Trial]:
    """Images for every neuron, fewer of either kind where there are fewer, perhaps none.

    Images that fire are taken evenly from the strongest to the weakest: with the strongest alone any name would do.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        count: Number of images that fire, and of those that do not.
        seed: Seed of the silent images; each neuron has its own draw.
    """
    columns = sparse.csc_matrix(latents)
    trials = []
    for neuron in range(columns.shape[1]):
        start, stop = columns.indptr[neuron : neuron + 2]
        values, rows = columns.data[start:stop], columns.indices[start:stop]
        order = rows[np.lexsort((rows, -values))][: (values > 0).sum()]
        others = np.setdiff1d(np.arange(columns.shape[0]), order)
        size = min(count, len(order), len(others))
        if not size:
            trials.append(Trial(order[:0], others[:0]))
            continue
        places = np.linspace(0, len(order) - 1, size).round().astype(int)
        silent = np.random.default_rng((seed, neuron)).choice(others, size, replace=False)
        trials.append(Trial(order[places], np.sort(silent)))
    return trials


def detection_score(similarities: np.ndarray, trial: Trial) -> float:
    """Share of right answers if the half that is most similar is taken to fire; 0.5 by chance, NaN without images.

    Of images that are equally similar, the share that chance would get right counts.

    Args:
        similarities: ``[images]``, a judge's similarity to the explanation.
        trial: The neuron's images.
    """
    size = len(trial.firing)
    if not size:
        return float("nan")
    values = similarities[np.concatenate(trial)]
    threshold = np.sort(values)[size]
    above, equal = values > threshold, values == threshold
    places = size - above.sum()
    hits = above[:size].sum() + places * equal[:size].sum() / equal.sum()
    return float(hits / size)
