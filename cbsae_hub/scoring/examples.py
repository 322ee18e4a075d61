"""Chooses the images that show what a neuron does: its strongest ones, some around quantiles, and random ones."""

import numpy as np
import pandas as pd
from scipy import sparse

STRIP_SIZES = {"top": 9, "p75": 4, "p50": 4, "p25": 4, "random": 4}  # random last: it avoids the others' images
QUANTILES = {"p75": 0.75, "p50": 0.50, "p25": 0.25}


def choose_examples(latents: sparse.csc_matrix) -> pd.DataFrame:
    """Images of every strip, of those on which a neuron is active.

    Args:
        latents: ``[images, neurons]``, image-level.

    Returns:
        One row per neuron and image: ``neuron``, ``strip``, ``rank`` in the strip, ``image``, ``activation``.
    """
    rows = []
    for neuron in range(latents.shape[1]):
        start, stop = latents.indptr[neuron : neuron + 2]
        values, ids = latents.data[start:stop], latents.indices[start:stop]
        values, ids = values[values > 0], ids[values > 0]  # signed concept neurons are stored for every image
        order = np.lexsort((ids, -values))
        earlier: set[int] = set()
        for strip in STRIP_SIZES:
            places = _places(strip, neuron, len(order), earlier)
            earlier.update(places)
            images = enumerate(order[places])
            rows += [(neuron, strip, rank, ids[image], values[image]) for rank, image in images]
    frame = pd.DataFrame(rows, columns=["neuron", "strip", "rank", "image", "activation"])
    return frame.astype({"neuron": "int32", "rank": "int16", "image": "int32", "activation": "float32"})


def _places(strip: str, neuron: int, active: int, earlier: set[int]) -> list[int]:
    """Images of a strip, as places among the ``active`` ones, strongest first, without those of ``earlier`` strips.

    "random", of which the neuron's number is the seed, leaves out images of other strips only if enough are left.
    """
    size = STRIP_SIZES[strip]
    if strip == "random":
        others = [place for place in range(active) if place not in earlier]
        pool = others if len(others) >= size else range(active)
        return sorted(np.random.default_rng(neuron).choice(pool, min(size, active), replace=False).tolist())
    start = 0 if strip == "top" else max(0, int((1 - QUANTILES[strip]) * active) - size // 2)
    return [place for place in range(start, min(active, start + size)) if place not in earlier]
