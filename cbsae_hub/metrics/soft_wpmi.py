"""Soft-WPMI, the formula by which CLIP-Dissect names neurons: over all images at once, and its parts for a stream.

Source: Oikarinen and Weng, CLIP-Dissect, ICLR 2023. A judge CLIP embeds probe images and concepts; a neuron gets the
concept whose similarity to the images goes with the neuron's activations. Constants are those of the published code.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_similarities
from cbsae_hub.metrics.top_images import strongest

SHARPNESS = 10.0  # a: inverse temperature of the softmax over concepts
P_START, P_END, MIN_PROB = 0.998, 0.97, 1e-7
# Concepts and neurons worked on together: what is multiplied rank by rank then stays in the processor's cache.
CONCEPT_BLOCK, NEURON_BLOCK = 256, 4096
IMAGE_BLOCK = 256


def soft_wpmi(
    latents: Tensor,
    concept_similarities: Tensor,
    top_k: int = 100,
    a: float = SHARPNESS,
    lam: float = 1.0,
    p_start: float = P_START,
    p_end: float = P_END,
    min_prob: float = MIN_PROB,
    prior: Tensor | None = None,
    count_silent: bool = True,
) -> Tensor:
    """Soft weighted pointwise mutual information (CLIP-Dissect, eq. 6) of every neuron and concept.

    With ``P = softmax over concepts of a * similarity`` and the ``top_k`` images of a neuron at ranks ``r``,
    ``L = sum_r log(1 + p_r (P - 1) + min_prob)`` where ``p_r`` falls linearly from ``p_start`` towards ``p_end``, and
    the score is ``L - lam * Q`` with the concept prior ``Q = log mean_neurons exp L``. Through Q scores depend on the
    neurons that are scored together, and they shrink with the number of concepts: compare within one run only.

    A neuron that is active on fewer than ``top_k`` images is filled up with silent images of the lowest ids, as in the
    published code (there in arbitrary order), and all such neurons are then named after the same few images. With
    ``count_silent=False`` only images on which it is active count. One that is never active scores 0 for every
    concept, and has no part in Q.

    Args:
        latents: ``[images, neurons]``, image-level activations, dense or sparse COO.
        concept_similarities: ``[images, concepts]``, the judge's cosines. Their dtype is that of the computation:
            with float32 a score is right to 3e-7 of L, and L is small, as nothing cancels.
        top_k: Images per neuron.
        a: Inverse temperature of the softmax.
        lam: Weight of the prior.
        p_start: Probability that the strongest image belongs to the concept.
        p_end: Probability at rank ``top_k``.
        min_prob: Keeps the logarithm finite.
        prior: ``[concepts]``, Q of a run over more neurons instead of that of these neurons.
        count_silent: Whether images on which a neuron's activation is 0 may be among its top images.

    Returns:
        ``[neurons, concepts]``, in the dtype of the similarities.

    Raises:
        ValueError: If the numbers of images differ, are 0, or values are not finite.
    """
    check_similarities(latents, concept_similarities)
    top, rows = strongest(latents, top_k)
    alive = top[:, 0] > 0
    weights, base = rank_weights(rows.shape[1], top_k, p_start, p_end, min_prob)
    normaliser = log_normaliser(concept_similarities, a)
    counts = images_that_count(top, count_silent)
    scores = concept_similarities.new_empty(len(rows), concept_similarities.shape[1])
    for columns in _blocks(scores.shape[1], CONCEPT_BLOCK):
        probabilities = (a * concept_similarities[:, columns]).sub_(normaliser[:, None]).exp_()
        evidence = evidence_of(rows, counts, weights, probabilities)
        q = prior_of(evidence, alive) if prior is None else prior[columns] - base
        # L and Q both lack the constant `base`: with lam = 1 it is gone.
        torch.sub(evidence, lam * q - (1 - lam) * base, out=scores[:, columns])
    return silence(scores, alive)


def rank_weights(
    k: int, top_k: int, p_start: float = P_START, p_end: float = P_END, min_prob: float = MIN_PROB
) -> tuple[list[float], float]:
    """Weights ``q_r = p_r / (1 - p_r + min_prob)`` of k ranks, and the constant ``sum_r log(1 - p_r + min_prob)``.

    ``log(1 + p (P - 1) + min_prob) = log(1 - p + min_prob) + log(1 + q P)``: the first part is the same for all
    concepts, and without it nothing cancels.
    """
    p = p_start - torch.arange(k, dtype=torch.float64) / top_k * (p_start - p_end)
    rest = 1 - p + min_prob
    return (p / rest).tolist(), float(rest.log().sum())


def evidence_of(rows: Tensor, counts: Tensor, weights: list[float], probabilities: Tensor) -> Tensor:
    """``sum_r log(1 + q_r P)``, ``[neurons, concepts]``, rank by rank: never ``[neurons, k, concepts]``.

    Products are taken before logarithms, as many factors at a time as cannot overflow. Neurons are worked on by
    falling number of images, so that each rank is a product of those that still have one.

    Args:
        rows: ``[neurons, k]``, rows of the images.
        counts: ``[neurons]``, number of them that count, from the first.
        weights: ``q_r`` of the k ranks.
        probabilities: ``[images, concepts]``.
    """
    probabilities = probabilities.contiguous()
    flush = _flush_after(weights, float(probabilities.max()), math.log(torch.finfo(probabilities.dtype).max) - 1)
    alike = len(counts) == 0 or bool((counts == counts[0]).all())
    order = counts.argsort(descending=True)
    result = probabilities.new_empty(len(rows), probabilities.shape[1])
    for part in _blocks(len(rows), NEURON_BLOCK) if alike else order.split(NEURON_BLOCK):
        # Of the sorted counts, how many are larger than 0, 1, ...: the neurons that have an image at that rank.
        ranks = torch.arange(rows.shape[1], device=rows.device)
        ascending = counts[part].flip(0)
        sizes = len(ascending) - torch.searchsorted(ascending, ranks, right=True)
        result[part] = _log_products(rows[part].T.contiguous(), sizes.tolist(), weights, probabilities, flush)
    return result


def _log_products(
    by_rank: Tensor, sizes: list[int], weights: list[float], probabilities: Tensor, flush: set[int]
) -> Tensor:
    """:func:`evidence_of` of some neurons, ``by_rank [k, neurons]``: the first ``sizes[r]`` have an image at rank r."""
    picked = probabilities.new_empty(by_rank.shape[1], probabilities.shape[1])
    product, total = torch.ones_like(picked), None
    for rank, (size, weight) in enumerate(zip(sizes, weights)):
        if size:
            torch.index_select(probabilities, 0, by_rank[rank, :size], out=picked[:size])
            product[:size].addcmul_(product[:size], picked[:size], value=weight)
        if rank in flush and rank + 1 < len(weights):
            total = product.log() if total is None else total.add_(product.log())
            product.fill_(1)
    return product.log_() if total is None else total.add_(product.log_())


def best_of_random(rows: Tensor, weights: list[float], probabilities: Tensor, prior: Tensor) -> Tensor:
    """Best scores of neurons with random images if only the first, the first two, ... of them count, ``[k, draws]``.

    Arguments are those of :func:`evidence_of`, with ``rows [draws, k]``, and the ``prior [concepts]``.
    """
    total = (-prior).expand(len(rows), -1).clone()
    best = probabilities.new_full((len(weights), len(rows)), -torch.inf)
    for rank, weight in enumerate(weights):
        total += (weight * probabilities[rows[:, rank]]).log1p_()
        if len(rows):
            best[rank] = total.amax(1)
    return best


def log_normaliser(similarities: Tensor, a: float) -> Tensor:
    """Logarithm of the divisor of the softmax over concepts, ``[images]``; in blocks, as memory would take the time."""
    return torch.cat([(a * part).logsumexp(1) for part in similarities.split(IMAGE_BLOCK)])


def _flush_after(weights: list[float], largest: float, limit: float) -> set[int]:
    """Ranks after which the logarithm is taken, so that no product of factors exceeds ``exp(limit)``."""
    flush, size = {len(weights) - 1}, 0.0
    for rank, weight in enumerate(weights):
        factor = math.log1p(weight * largest)
        if size + factor > limit:
            flush.add(rank - 1)
            size = 0.0
        size += factor
    return flush


def prior_of(evidence: Tensor, alive: Tensor) -> Tensor:
    """The concept prior Q of the neurons that are not dead, without the constant of :func:`rank_weights`."""
    count = int(alive.sum())
    if not count:
        return evidence.new_zeros(evidence.shape[1])
    return (evidence if count == len(alive) else evidence[alive]).logsumexp(0) - math.log(count)


def silence(scores: Tensor, alive: Tensor) -> Tensor:
    """Sets the scores of dead neurons to 0, in place."""
    return scores if alive.all() else scores.mul_(alive[:, None])


def images_that_count(top: Tensor, count_silent: bool) -> Tensor:
    """Number of top images that count for each neuron, ``[neurons]``; activations ``top [neurons, k]`` descend."""
    return torch.full((len(top),), top.shape[1], device=top.device) if count_silent else (top != 0).sum(1)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
