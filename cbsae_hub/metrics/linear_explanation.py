"""Linear explanations: a neuron as a weighted sum of one to five concepts, chosen one after another.

After Oikarinen and Weng, Linear explanations for individual neurons, ICML 2024, who fit with a sparse solver. Here it
is forward selection: the concept comes next that, with the weights of all chosen ones fitted again, explains most of
the variance.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

COUNT = 5
CANDIDATES = 100
NEURON_BLOCK = 256
LEAST = 1e-9  # share of a concept's variance that the chosen ones must leave: below it, it is one of them


@dataclass(frozen=True)
class LinearExplanations:
    """Concepts and weights of neurons.

    Attributes:
        concepts: ``[neurons, count]`` int, in the order of the choice; -1 where no concept adds anything.
        weights: ``[count, neurons, count]``; row ``i`` are the weights of the first ``i + 1`` concepts. They act on
            similarities with mean 0 and variance 1 over images.
    """

    concepts: np.ndarray
    weights: np.ndarray

    def predict(self, similarities: np.ndarray, count: int, neurons: np.ndarray) -> np.ndarray:
        """Activations that the first ``count`` concepts predict, up to scale and offset, ``[images, neurons]``.

        Args:
            similarities: ``[images, concepts]``, of any judge: they are standardised over these images.
            count: Number of concepts.
            neurons: Numbers of the neurons.
        """
        concepts, weights = self.concepts[neurons, :count], self.weights[count - 1, neurons, :count]
        different, place = np.unique(concepts, return_inverse=True)
        columns = np.where(different >= 0, standardised(similarities[:, different]), 0)
        by_concept = np.zeros((len(different), len(neurons)))
        np.add.at(by_concept, (place.reshape(concepts.shape), np.arange(len(neurons))[:, None]), weights)
        return columns @ by_concept


def explain_linearly(
    latents: sparse.spmatrix | np.ndarray,
    similarities: np.ndarray,
    count: int = COUNT,
    candidates: int = CANDIDATES,
) -> LinearExplanations:
    """Chooses concepts greedily.

    A concept is chosen only if the neuron rises with it, given those before it: an explanation says what is there.

    Args:
        latents: ``[images, neurons]``, image-level. Of a sparse matrix, what is not stored is 0.
        similarities: ``[images, concepts]``, a judge's.
        count: Most concepts of a neuron.
        candidates: Concepts that are considered for a neuron: those that correlate most with it.

    Raises:
        ValueError: If the numbers of images differ, or are 0.
    """
    if latents.shape[0] != len(similarities) or not len(similarities):
        raise ValueError(f"latents of {latents.shape[0]} images and similarities of {len(similarities)} were given")
    columns, images = sparse.csc_matrix(latents, dtype=np.float64), len(similarities)
    concepts = standardised(similarities)
    gram = concepts.T @ concepts / images
    blocks = [
        _choose(gram, columns[:, start : start + NEURON_BLOCK].T @ concepts / images, count, candidates)
        for start in range(0, columns.shape[1], NEURON_BLOCK)
    ]
    chosen, weights = zip(*blocks)
    return LinearExplanations(np.concatenate(chosen), np.concatenate(weights, 1))


def standardised(similarities: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1; constant ones are 0."""
    centred = np.asarray(similarities, dtype=np.float64) - np.mean(similarities, axis=0)
    spread = centred.std(0)
    constant = np.ptp(similarities, axis=0) == 0
    return np.where(constant, 0, centred / np.where(constant, 1, spread))


def _choose(gram: np.ndarray, products: np.ndarray, count: int, candidates: int) -> tuple[np.ndarray, np.ndarray]:
    """Concepts ``[neurons, count]`` and weights ``[count, neurons, count]``.

    ``gram [concepts, concepts]`` and ``products [neurons, concepts]`` are mean products over images.
    """
    neurons, size = len(products), min(candidates, products.shape[1])
    pool = np.argsort(-products, axis=1, kind="stable")[:, :size]
    rows = np.arange(neurons)
    whole = gram[pool[:, :, None], pool[:, None, :]]
    target = np.take_along_axis(products, pool, 1)
    # Of what the chosen concepts do not explain: products among candidates, and with the neuron.
    residual, rest = whole.copy(), target.copy()
    places = np.zeros((neurons, count), dtype=int)
    chosen = np.zeros((neurons, count), dtype=bool)
    weights = np.zeros((count, neurons, count))
    for step in range(min(count, size)):
        variance = np.einsum("njj->nj", residual)
        free = (variance > LEAST) & (rest > 0)
        gain = np.where(free, rest**2 / np.where(free, variance, 1), 0)
        best = gain.argmax(1)
        adds = gain[rows, best] > 0
        places[:, step], chosen[:, step] = best, adds
        row = residual[rows, best] * adds[:, None]
        own = np.where(adds, residual[rows, best, best], 1)
        rest = rest - row * (rest[rows, best] / own)[:, None]
        residual = residual - row[:, :, None] * row[:, None, :] / own[:, None, None]
        weights[step, :, : step + 1] = _fitted(whole, target, places[:, : step + 1], chosen[:, : step + 1])
    for step in range(size, count):
        weights[step] = weights[size - 1]
    return np.where(chosen, np.take_along_axis(pool, places, 1), -1), weights


def _fitted(whole: np.ndarray, target: np.ndarray, places: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Weights of least squares of the chosen candidates; 0 where none was chosen."""
    rows = np.arange(len(places))[:, None]
    matrix = whole[rows[:, :, None], places[:, :, None], places[:, None, :]] * (valid[:, :, None] & valid[:, None, :])
    matrix += np.eye(places.shape[1]) * ~valid[:, :, None]
    return np.linalg.solve(matrix, (target[rows, places] * valid)[..., None])[..., 0]
