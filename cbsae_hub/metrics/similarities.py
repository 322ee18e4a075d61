"""CLIP-Dissect's other measures of how activations go with a concept's similarities, over all images at once.

Source: Oikarinen and Weng, CLIP-Dissect, ICLR 2023.
"""

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_similarities
from cbsae_hub.metrics.moments import MIN_NORM, safe_divide
from cbsae_hub.metrics.top_images import strongest


def cosine(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of a neuron's activations and a concept's similarities over images, not centred; 0 for dead neurons."""
    check_similarities(latents, concept_similarities)
    z, s = latents.to_dense().double(), concept_similarities.double()
    return safe_divide(z.T @ s, z.norm(dim=0)[:, None] * s.norm(dim=0))


def cosine_cubed(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of centred and cubed activations and similarities (norms of at least 1e-3); 0 for constant neurons."""
    check_similarities(latents, concept_similarities)
    pair = latents.to_dense().double(), concept_similarities.double()
    cubes = [(x - x.mean(0)) ** 3 for x in pair]
    z, s = (x / x.norm(dim=0).clamp_min(MIN_NORM) for x in cubes)
    return z.T @ s


def rank_reorder(
    latents: Tensor, concept_similarities: Tensor, p: float = 3.0, top_fraction: float = 0.05, scale_p: float = 0.5
) -> Tensor:
    """Minus the error of reordering a neuron's top activations by a concept's similarities, relative to chance.

    Chance is the exact mean over all reorderings, where the published code draws five. A concept whose mean similarity
    to the images is not positive has no scale: -inf. Neurons that are dead or constant on their top images score 0.
    """
    check_similarities(latents, concept_similarities)
    top, rows = strongest(latents, max(1, int(top_fraction * len(latents))))
    return rank_reorder_of_top(top, rows, concept_similarities.double(), p, scale_p)


def rank_reorder_of_top(
    top: Tensor, rows: Tensor, similarities: Tensor, p: float = 3.0, scale_p: float = 0.5
) -> Tensor:
    """:func:`rank_reorder` from the top images alone: activations ``top [neurons, k]``, descending, and their ``rows``.

    ``p`` is the power of the error, ``scale_p`` that of a concept's mean similarity, by which errors are divided.
    """
    scores = torch.zeros(len(top), similarities.shape[1], dtype=torch.float64)
    for neuron, descending in enumerate(top.double()):
        ascending = descending.flip(0)
        chance = (descending[:, None] - descending).abs().pow(p).mean()
        if chance == 0:
            continue
        picked = similarities[rows[neuron]]
        error = (descending[:, None] - ascending[picked.argsort(0).argsort(0)]).abs().pow(p).mean(0) / chance
        mean = picked.mean(0)
        scores[neuron] = torch.where(mean > 0, -error / mean.clamp_min(1e-12).pow(scale_p), -torch.inf)
    return scores
