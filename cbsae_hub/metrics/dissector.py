"""CLIP-Dissect: which concept of a list explains a neuron's activations best, by a judge's eyes.

Source: Oikarinen and Weng, CLIP-Dissect, ICLR 2023. A judge CLIP embeds probe images and concepts; a neuron gets the
concept whose similarity to the images goes with the neuron's activations. Constants are those of the published code.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch
from cbsae_hub.metrics.moments import (
    MIN_NORM,
    MomentSums,
    cosine_cubed_of_moments,
    cosine_of_moments,
    safe_divide,
)
from cbsae_hub.metrics.top_images import TopImages, ids_of, values_of

METHODS = ("soft_wpmi", "cosine", "cosine_cubed", "rank_reorder")
SHARPNESS = 10.0  # a: inverse temperature of the softmax over concepts
P_START, P_END, MIN_PROB = 0.998, 0.97, 1e-7
POWERS = {"cosine": (2, 1), "cosine_cubed": (6, 3)}  # up to which moments are streamed, see MomentSums
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
        p_end: Where the probability falls to at rank ``top_k``.
        min_prob: Keeps the logarithm finite.
        prior: ``[concepts]``, Q of a run over more neurons instead of that of these neurons.
        count_silent: Whether images on which a neuron's activation is 0 may be among its top images.

    Returns:
        ``[neurons, concepts]``, in the dtype of the similarities.

    Raises:
        ValueError: If the numbers of images differ, are 0, or values are not finite.
    """
    top, rows = _top(latents, concept_similarities, top_k)
    alive = top[:, 0] > 0
    weights, base = rank_weights(rows.shape[1], top_k, p_start, p_end, min_prob)
    normaliser = _normaliser(concept_similarities, a)
    counts = _counts(top, count_silent)
    scores = concept_similarities.new_empty(len(rows), concept_similarities.shape[1])
    for columns in _blocks(scores.shape[1], CONCEPT_BLOCK):
        probabilities = (a * concept_similarities[:, columns]).sub_(normaliser[:, None]).exp_()
        evidence = _evidence(rows, counts, weights, probabilities)
        q = _prior(evidence, alive) if prior is None else prior[columns] - base
        # L and Q both lack the constant `base`: with lam = 1 it is gone.
        torch.sub(evidence, lam * q - (1 - lam) * base, out=scores[:, columns])
    return _silence(scores, alive)


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


def _evidence(rows: Tensor, counts: Tensor, weights: list[float], probabilities: Tensor) -> Tensor:
    """``sum_r log(1 + q_r P)`` of each neuron, rank by rank: never ``[neurons, k, concepts]``.

    Products are taken before logarithms, as many factors at a time as cannot overflow. Neurons are worked on by
    falling number of images, so that each rank is a product of those that still have one.

    Args:
        rows: ``[neurons, k]``, which images.
        counts: ``[neurons]``, how many of them count, from the first.
        weights: ``q_r`` of the k ranks.
        probabilities: ``[images, concepts]``.

    Returns:
        ``[neurons, concepts]``.
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
        by_rank = rows[part].T.contiguous()
        result[part] = _log_products(by_rank, sizes.tolist(), weights, probabilities, flush)
    return result


def _log_products(
    by_rank: Tensor, sizes: list[int], weights: list[float], probabilities: Tensor, flush: set[int]
) -> Tensor:
    """:func:`_evidence` of some neurons, ``by_rank [k, neurons]``: the first ``sizes[r]`` have an image at rank r."""
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


def _null_best(rows: Tensor, weights: list[float], probabilities: Tensor, prior: Tensor) -> Tensor:
    """Best scores of neurons with random images if only the first, the first two, ... of them count.

    Args:
        rows: ``[draws, k]``, which images.
        weights: ``q_r`` of the k ranks.
        probabilities: ``[images, concepts]``.
        prior: ``[concepts]``.

    Returns:
        ``[k, draws]``.
    """
    total = (-prior).expand(len(rows), -1).clone()
    best = probabilities.new_full((len(weights), len(rows)), -torch.inf)
    for rank, weight in enumerate(weights):
        total += (weight * probabilities[rows[:, rank]]).log1p_()
        if len(rows):
            best[rank] = total.amax(1)
    return best


def _normaliser(similarities: Tensor, a: float) -> Tensor:
    """Logarithm of what the softmax over concepts divides by, ``[images]``; in blocks, or memory is what takes time."""
    return torch.cat([(a * part).logsumexp(1) for part in similarities.split(IMAGE_BLOCK)])


def _flush_after(weights: list[float], largest: float, limit: float) -> set[int]:
    """The ranks after which to take the logarithm, so that no product of factors exceeds ``exp(limit)``."""
    flush, size = {len(weights) - 1}, 0.0
    for rank, weight in enumerate(weights):
        factor = math.log1p(weight * largest)
        if size + factor > limit:
            flush.add(rank - 1)
            size = 0.0
        size += factor
    return flush


def _prior(evidence: Tensor, alive: Tensor) -> Tensor:
    """The concept prior Q of the neurons that are not dead, without the constant of :func:`rank_weights`."""
    count = int(alive.sum())
    if not count:
        return evidence.new_zeros(evidence.shape[1])
    return (evidence if count == len(alive) else evidence[alive]).logsumexp(0) - math.log(count)


def _silence(scores: Tensor, alive: Tensor) -> Tensor:
    """Scores with 0 for dead neurons, in place."""
    return scores if alive.all() else scores.mul_(alive[:, None])


def cosine(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of a neuron's activations and a concept's similarities over images, not centred; 0 for dead neurons."""
    _check(latents, concept_similarities)
    z, s = latents.to_dense().double(), concept_similarities.double()
    return safe_divide(z.T @ s, z.norm(dim=0)[:, None] * s.norm(dim=0))


def cosine_cubed(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of centred and cubed activations and similarities (norms of at least 1e-3); 0 for constant neurons."""
    _check(latents, concept_similarities)
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
    top, rows = _top(latents, concept_similarities, max(1, int(top_fraction * len(latents))))
    return _rank_reorder(top, rows, concept_similarities.double(), p, scale_p)


def _rank_reorder(top: Tensor, rows: Tensor, similarities: Tensor, p: float = 3.0, scale_p: float = 0.5) -> Tensor:
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


@dataclass
class Naming:
    """The best concepts of each neuron.

    Attributes:
        scores: ``[neurons, count]``, best first.
        concepts: ``[neurons, count]``, indices into the concept set.
        chance: ``[neurons]`` mean best score of neurons with random top images, as many as count for this neuron, under
            the same prior: what a neuron that knows nothing scores. NaN for methods other than soft-WPMI.
        percentile: ``[neurons]`` share of those that score less: a score in 0..1 that can be compared between concept
            sets, as the raw one cannot. NaN likewise.
        density: ``[neurons]`` share of the images on which a neuron is active. A neuron with 0 has no name.
    """

    scores: Tensor
    concepts: Tensor
    chance: Tensor
    percentile: Tensor
    density: Tensor


class Dissector(TopImages):
    """CLIP-Dissect over a stream of image batches, in any order, on any number of processes.

    Keeps the top images of each neuron and the judge's image embeddings, or sums of products: never a matrix of all
    images and neurons. Equal to the plain functions of this module over all images at once. Several concept sets cost
    no more passes over images than one.

    Args:
        neurons: Number of neurons.
        text_embeddings: ``[concepts, d]``, unit, of the judge; or several such by name: results then come by name. All
            is computed in their dtype.
        method: "soft_wpmi", "cosine", "cosine_cubed" or "rank_reorder", see the function of that name.
        top_k: Images per neuron that are kept (soft_wpmi: used).
        top_fraction: rank_reorder: share of the images that is used; ``top_k`` must be at least that many.
        count_silent: soft_wpmi: see :func:`soft_wpmi`.

    Raises:
        ValueError: If the method is unknown or there are no concepts.
    """

    def __init__(
        self,
        neurons: int,
        text_embeddings: Tensor | Mapping[str, Tensor],
        method: str = "soft_wpmi",
        top_k: int = 100,
        top_fraction: float = 0.05,
        count_silent: bool = True,
    ):
        super().__init__(neurons, top_k)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.method, self.top_fraction, self.count_silent = method, top_fraction, count_silent
        self.named_sets = isinstance(text_embeddings, Mapping)
        sets = dict(text_embeddings) if self.named_sets else {"": text_embeddings}
        if not sets or not all(len(texts) for texts in sets.values()):
            raise ValueError("there is a concept set without concepts")
        self.set_sizes = {name: len(texts) for name, texts in sets.items()}
        self.register_buffer("text_embeddings", torch.cat(list(sets.values())), persistent=False)
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("embedded_ids", default=[], dist_reduce_fx="cat")
        if method in POWERS:
            for name in MomentSums._fields:
                self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, latents: Tensor, image_embeddings: Tensor, image_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            latents: ``[images, neurons]``, image-level, dense or sparse COO.
            image_embeddings: ``[images, d]``, unit, of the judge.
            image_ids: ``[images]`` int64, different for different images.

        Raises:
            ValueError: If lengths differ or values are not finite.
        """
        check_batch(latents, self.neurons, image_embeddings=image_embeddings)
        super().update(latents, image_ids)
        self.embeddings.append(image_embeddings.to(self.text_embeddings.dtype))
        self.embedded_ids.append(image_ids)
        if self.method in POWERS:
            self._add_moments(latents, image_embeddings.double() @ self.text_embeddings.double().T)

    def _add_moments(self, latents: Tensor, similarities: Tensor) -> None:
        if not self.products:
            sums = MomentSums.about_first_batch(latents, similarities, POWERS[self.method], self.method != "cosine")
            for name, value in sums._asdict().items():
                getattr(self, name).append(value[None])
        MomentSums(*(getattr(self, name)[0][0] for name in MomentSums._fields)).add(latents, similarities)

    def _moments(self, columns: slice) -> list[MomentSums]:
        """Of each process or merged metric, those of some concepts."""
        states = (getattr(self, name) for name in MomentSums._fields)
        parts = zip(*(torch.cat(state) if isinstance(state, list) else state for state in states))
        return [MomentSums(*part).of_concepts(columns) for part in parts]

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Scores ``[neurons, concepts]``, of each concept set.

        Raises:
            ValueError: See :meth:`TopImages.compute`.
        """
        return self._by_set(lambda columns: torch.cat([scores for scores, _ in self._scored(columns)], 1))

    def name(self, count: int = 5, null_draws: int = 500, seed: int = 0) -> Naming | dict[str, Naming]:
        """The best concepts of each neuron, of each concept set, without ever holding all scores.

        Args:
            count: Concepts a neuron.
            null_draws: Neurons with random images that the scores are compared with.
            seed: Of those images.
        """
        with self.sync_context():
            return self._by_set(lambda columns: self._name(columns, count, null_draws, seed))

    def _by_set(self, of_columns: Callable[[slice], Any]) -> Any:
        ends = list(accumulate(self.set_sizes.values()))
        starts = [0, *ends[:-1]]
        results = {name: of_columns(slice(*ends)) for name, *ends in zip(self.set_sizes, starts, ends)}
        return results if self.named_sets else results[""]

    def _name(self, columns: slice, count: int, draws: int, seed: int) -> Naming:
        texts = self.text_embeddings[columns]
        best = torch.full((self.neurons, 0), -torch.inf, dtype=texts.dtype, device=texts.device)
        which = torch.empty((self.neurons, 0), dtype=torch.int64, device=texts.device)
        draws = draws if self.method == "soft_wpmi" else 0
        null = torch.full((min(self.k, len(self.ids())), draws), -torch.inf, dtype=texts.dtype, device=texts.device)
        start = 0
        for scores, null_best in self._scored(columns, draws, seed):
            here = torch.arange(start, start + scores.shape[1], device=texts.device).expand(len(scores), -1)
            start += scores.shape[1]
            pool = torch.cat([best, scores], 1)
            best, place = pool.topk(min(count, pool.shape[1]), dim=1)
            which = torch.cat([which, here], 1).gather(1, place)
            null = torch.maximum(null, null_best)
        density = self.fired / len(self.ids())
        if not draws:
            unknown = torch.full_like(best[:, 0], torch.nan)
            return Naming(best, which, unknown, unknown, density)
        # Compared with neurons that as many images count for.
        used = _counts(values_of(self.filled_keys()), self.count_silent).clamp_min(1) - 1
        percentile = (null[used] < best[:, :1]).to(best.dtype).mean(1)
        return Naming(best, which, null.mean(1)[used], percentile, density)

    def _scored(self, columns: slice, draws: int = 0, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of columns of the scores of all neurons; and see :func:`_null_best`."""
        ids, embeddings = self._embedded()
        texts = self.text_embeddings[columns]
        none = texts.new_empty(min(self.k, len(ids)), 0)
        if self.method == "soft_wpmi":
            yield from self._soft_wpmi(ids, embeddings, texts, draws, seed)
            return
        similarities = embeddings.double() @ texts.double().T
        if self.method == "rank_reorder":
            keys = self.filled_keys()[:, : max(1, int(self.top_fraction * len(ids)))]
            yield _rank_reorder(values_of(keys), torch.searchsorted(ids, ids_of(keys)), similarities), none
            return
        scores = cosine_of_moments if self.method == "cosine" else cosine_cubed_of_moments
        yield scores(self._moments(columns), similarities), none

    def _soft_wpmi(
        self, ids: Tensor, embeddings: Tensor, texts: Tensor, draws: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        keys = self.filled_keys()
        rows, top = torch.searchsorted(ids, ids_of(keys)), values_of(keys)
        weights, _ = rank_weights(rows.shape[1], self.k)
        generator = torch.Generator().manual_seed(seed)
        random = torch.rand(draws, len(ids), generator=generator).topk(rows.shape[1], dim=1).indices.to(ids.device)
        # The softmax runs over all concepts of the set; only its normaliser is kept.
        normaliser = torch.cat([_normaliser(part @ texts.T, SHARPNESS) for part in embeddings.split(IMAGE_BLOCK)])
        alive, counts = top[:, 0] > 0, _counts(top, self.count_silent)
        for part in texts.split(CONCEPT_BLOCK):
            probabilities = (SHARPNESS * embeddings @ part.T).sub_(normaliser[:, None]).exp_()
            evidence = _evidence(rows, counts, weights, probabilities)
            prior = _prior(evidence, alive)
            null = _null_best(random, weights, probabilities, prior)
            yield _silence(evidence.sub_(prior), alive), null

    def _embedded(self) -> tuple[Tensor, Tensor]:
        """Image ids, ascending, and the judge's embeddings in that order."""
        self.ids()  # or no images were given
        ids = torch.cat(self.embedded_ids) if isinstance(self.embedded_ids, list) else self.embedded_ids
        embeddings = torch.cat(self.embeddings) if isinstance(self.embeddings, list) else self.embeddings
        ids, order = ids.sort()
        return ids, embeddings[order]


def _counts(top: Tensor, count_silent: bool) -> Tensor:
    """How many of its top images count for each neuron, ``[neurons]``: activations ``top [neurons, k]`` descend."""
    return torch.full((len(top),), top.shape[1], device=top.device) if count_silent else (top != 0).sum(1)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _check(latents: Tensor, similarities: Tensor) -> None:
    if not len(latents):
        raise ValueError("no images were given")
    check_batch(latents, latents.shape[1], similarities=similarities)


def _top(latents: Tensor, similarities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Activations and rows of the k strongest images of each neuron, ``[neurons, min(k, images)]`` each."""
    _check(latents, similarities)
    top = TopImages(latents.shape[1], min(k, len(latents))).to(latents.device)
    top.update(latents, torch.arange(len(latents), device=latents.device))
    return top.compute()
