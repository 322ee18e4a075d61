"""CLIP-Dissect: which concept of a list explains a neuron's activations best, by a judge's eyes.

Source: Oikarinen and Weng, CLIP-Dissect, ICLR 2023. A judge CLIP embeds probe images and concepts; a neuron gets the
concept whose similarity to the images goes with the neuron's activations. Constants are those of the published code.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from cbsae_hub.metrics.top_k import empty_top_k, merge_top_k, update_top_k

METHODS = ("soft_wpmi", "cosine", "cosine_cubed", "rank_reorder")
FACTORS_PER_LOG = 100  # products of so many factors of at most 500 stay within float64
MIN_NORM = 1e-3


def soft_wpmi(
    latents: Tensor,
    concept_similarities: Tensor,
    top_k: int = 100,
    a: float = 10.0,
    lam: float = 1.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    min_prob: float = 1e-7,
    prior: Tensor | None = None,
) -> Tensor:
    """Soft weighted pointwise mutual information (CLIP-Dissect, eq. 6) of every neuron and concept.

    With ``P = softmax over concepts of a * similarity`` and the ``top_k`` images of a neuron at ranks ``r``,
    ``L = sum_r log(1 + p_r (P - 1) + min_prob)`` where ``p_r`` falls linearly from ``p_start`` towards ``p_end``, and
    the score is ``L - lam * Q`` with the concept prior ``Q = log mean_neurons exp L``. Through Q scores depend on the
    neurons that are scored together, and they shrink with the number of concepts: compare within one run only.

    A neuron that is active on fewer than ``top_k`` images is filled up with inactive images of the lowest ids, as in
    the published code (there in arbitrary order); one that is never active scores 0 for every concept.

    Args:
        latents: ``[images, neurons]``, image-level activations.
        concept_similarities: ``[images, concepts]``, the judge's cosines.
        top_k: Images per neuron.
        a: Inverse temperature of the softmax.
        lam: Weight of the prior.
        p_start: Probability that the strongest image belongs to the concept.
        p_end: Where the probability falls to at rank ``top_k``.
        min_prob: Keeps the logarithm finite.
        prior: ``[concepts]``, Q of an earlier run (``soft_wpmi_prior``) instead of that of these neurons.

    Returns:
        ``[neurons, concepts]`` float64.

    Raises:
        ValueError: If the numbers of images differ, are 0, or values are not finite.
    """
    _check_pair(latents, concept_similarities)
    top = update_top_k(empty_top_k(latents.shape[1], min(top_k, len(latents))), latents, torch.arange(len(latents)))
    evidence = _soft_evidence(top, (a * concept_similarities.double()).softmax(1), p_start, p_end, min_prob, top_k)
    return _pointwise(evidence, top, lam, prior, p_start, p_end, min_prob, top_k)


def rank_weights(k: int, top_k: int, p_start: float, p_end: float, min_prob: float) -> tuple[Tensor, float]:
    """Weights ``q_r = p_r / (1 - p_r + min_prob)`` of k ranks, and the constant ``sum_r log(1 - p_r + min_prob)``.

    ``log(1 + p (P - 1) + min_prob) = log(1 - p + min_prob) + log(1 + q P)``: the first part is the same for all
    concepts, and without it nothing cancels.
    """
    p = p_start - torch.arange(k, dtype=torch.float64) / top_k * (p_start - p_end)
    rest = 1 - p + min_prob
    return p / rest, float(rest.log().sum())


def _soft_evidence(
    top: Tensor, probabilities: Tensor, p_start: float, p_end: float, min_prob: float, top_k: int
) -> Tensor:
    """``sum_r log(1 + q_r P)`` for each neuron and concept, rank by rank: never ``[neurons, k, concepts]``."""
    weights, _ = rank_weights(top.shape[1], top_k, p_start, p_end, min_prob)
    rows = top[..., 1].long()
    total = torch.zeros(len(top), probabilities.shape[1], dtype=torch.float64)
    product = torch.ones_like(total)
    for rank, weight in enumerate(weights.tolist()):
        product *= torch.addcmul(
            torch.ones((), dtype=torch.float64), probabilities[rows[:, rank]], torch.tensor(weight)
        )
        if (rank + 1) % FACTORS_PER_LOG == 0 or rank + 1 == len(weights):
            total += product.log()
            product.fill_(1)
    return total


def _pointwise(
    evidence: Tensor, top: Tensor, lam: float, prior: Tensor | None,
    p_start: float, p_end: float, min_prob: float, top_k: int,
) -> Tensor:  # fmt: skip
    alive = top[:, 0, 0] > 0
    if prior is None:
        if not alive.any():
            return torch.zeros_like(evidence)
        prior = evidence[alive].logsumexp(0) - math.log(int(alive.sum()))
    _, base = rank_weights(top.shape[1], top_k, p_start, p_end, min_prob)
    scores = evidence - lam * prior + (1 - lam) * base
    return scores * alive[:, None]


def cosine(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of a neuron's activations and a concept's similarities over images, not centred; 0 for dead neurons."""
    _check_pair(latents, concept_similarities)
    z, s = latents.double(), concept_similarities.double()
    return _safe_divide(z.T @ s, z.norm(dim=0)[:, None] * s.norm(dim=0))


def cosine_cubed(latents: Tensor, concept_similarities: Tensor) -> Tensor:
    """Cosine of centred and cubed activations and similarities (norms of at least 1e-3); 0 for constant neurons."""
    _check_pair(latents, concept_similarities)
    cubes = [(x.double() - x.double().mean(0)) ** 3 for x in (latents, concept_similarities)]
    z, s = (x / x.norm(dim=0).clamp_min(MIN_NORM) for x in cubes)
    return z.T @ s


def rank_reorder(
    latents: Tensor, concept_similarities: Tensor, p: float = 3.0, top_fraction: float = 0.05, scale_p: float = 0.5
) -> Tensor:
    """Minus the error of reordering a neuron's top activations by a concept's similarities, relative to chance.

    Chance is the exact mean over all reorderings, where the published code draws five. A concept whose mean similarity
    to the images is not positive has no scale: -inf. Neurons that are dead or constant on their top images score 0.
    """
    _check_pair(latents, concept_similarities)
    k = max(1, int(top_fraction * len(latents)))
    top = update_top_k(empty_top_k(latents.shape[1], k), latents, torch.arange(len(latents)))
    return _rank_reorder(top, concept_similarities.double(), p, scale_p)


def _rank_reorder(top: Tensor, similarities: Tensor, p: float, scale_p: float) -> Tensor:
    scores = torch.zeros(len(top), similarities.shape[1], dtype=torch.float64)
    for neuron, state in enumerate(top):
        descending, rows = state[:, 0], state[:, 1].long()
        ascending = descending.flip(0)
        chance = (descending[:, None] - descending).abs().pow(p).mean()
        if chance == 0:
            continue
        picked = similarities[rows]
        error = (descending[:, None] - ascending[picked.argsort(0).argsort(0)]).abs().pow(p).mean(0) / chance
        mean = picked.mean(0)
        scores[neuron] = torch.where(mean > 0, -error / mean.clamp_min(1e-12).pow(scale_p), -torch.inf)
    return scores


class Dissector(Metric):
    """CLIP-Dissect over a stream of image batches, in any order, on any number of processes.

    Keeps the top images of each neuron and the judge's image embeddings, or sums of products: never a matrix of all
    images and neurons. Equal to the plain functions of this module over all images at once.

    Args:
        neurons: Number of neurons.
        text_embeddings: ``[concepts, d]``, unit, of the judge.
        method: "soft_wpmi", "cosine", "cosine_cubed" or "rank_reorder", see the function of that name.
        top_k: Images per neuron that are kept (soft_wpmi: used).
        top_fraction: rank_reorder: share of the images that is used; ``top_k`` must be at least that many.

    Raises:
        ValueError: If the method is unknown.
    """

    full_state_update = False

    def __init__(
        self,
        neurons: int,
        text_embeddings: Tensor,
        method: str = "soft_wpmi",
        top_k: int = 100,
        top_fraction: float = 0.05,
    ):
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.method, self.top_k, self.top_fraction = method, top_k, top_fraction
        self.register_buffer("text_embeddings", text_embeddings.double(), persistent=False)
        concepts = len(text_embeddings)
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("image_ids", default=[], dist_reduce_fx="cat")
        if method in ("soft_wpmi", "rank_reorder"):
            self.add_state("top", default=empty_top_k(neurons, top_k), dist_reduce_fx=merge_top_k)
        else:
            # Sums over images of z^i s^j: what centring and cubing afterwards need.
            norm_power, power = {"cosine": (2, 1), "cosine_cubed": (6, 3)}[method]
            sums = torch.zeros(norm_power + 1, neurons, dtype=torch.float64)
            products = torch.zeros(power, power, neurons, concepts, dtype=torch.float64)
            self.add_state("z_sums", sums, dist_reduce_fx="sum")
            self.add_state("products", products, dist_reduce_fx="sum")

    def update(self, latents: Tensor, image_embeddings: Tensor, image_ids: Tensor) -> None:
        """Adds a batch.

        Args:
            latents: ``[images, neurons]``, image-level.
            image_embeddings: ``[images, d]``, unit, of the judge.
            image_ids: ``[images]``, different for different images.

        Raises:
            ValueError: If lengths differ or values are not finite.
        """
        _check_pair(latents, image_embeddings)
        self.embeddings.append(image_embeddings.double())
        self.image_ids.append(image_ids)
        if self.method in ("soft_wpmi", "rank_reorder"):
            self.top = update_top_k(self.top, latents, image_ids)
            return
        z, s = latents.double(), image_embeddings.double() @ self.text_embeddings.T
        self.z_sums += torch.stack([(z**i).sum(0) for i in range(len(self.z_sums))])
        for i in range(self.products.shape[0]):
            for j in range(self.products.shape[1]):
                self.products[i, j] += (z ** (i + 1)).T @ s ** (j + 1)

    def compute(self) -> Tensor:
        """Scores ``[neurons, concepts]`` float64."""
        order, similarities = self._similarities()
        if self.method == "cosine":
            return _safe_divide(
                self.products[0, 0], self.z_sums[2].sqrt()[:, None] * similarities.square().sum(0).sqrt()
            )
        if self.method == "cosine_cubed":
            return self._cosine_cubed(similarities)
        top = self._top_rows(order, len(similarities))
        if self.method == "rank_reorder":
            return _rank_reorder(top[:, : max(1, int(self.top_fraction * len(similarities)))], similarities, 3.0, 0.5)
        evidence = _soft_evidence(top, (10.0 * similarities).softmax(1), 0.998, 0.97, 1e-7, self.top_k)
        return _pointwise(evidence, top, 1.0, None, 0.998, 0.97, 1e-7, self.top_k)

    def null_scores(self, draws: int = 500, seed: int = 0) -> Tensor:
        """Best soft-WPMI scores ``[draws]`` of neurons with random top images, under these neurons' prior.

        What a name's score is worth: a neuron that knows nothing scores like one of these.
        """
        order, similarities = self._similarities()
        probabilities = (10.0 * similarities).softmax(1)
        top = self._top_rows(order, len(similarities))
        constants = (0.998, 0.97, 1e-7, self.top_k)
        alive = top[:, 0, 0] > 0
        evidence = _soft_evidence(top[alive], probabilities, *constants)
        prior = evidence.logsumexp(0) - math.log(max(1, int(alive.sum())))
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(draws, len(similarities), generator=generator).argsort(1)[:, : top.shape[1]]
        random_top = torch.stack([torch.ones(images.shape), images], -1).double()
        return (_soft_evidence(random_top, probabilities, *constants) - prior).amax(1)

    def _similarities(self) -> tuple[Tensor, Tensor]:
        """Image ids in ascending order, and the similarities ``[images, concepts]`` in that order."""
        ids = torch.cat(self.image_ids) if isinstance(self.image_ids, list) else self.image_ids
        embeddings = torch.cat(self.embeddings) if isinstance(self.embeddings, list) else self.embeddings
        ids, order = ids.sort()
        return ids, embeddings[order] @ self.text_embeddings.T

    def _top_rows(self, ids: Tensor, images: int) -> Tensor:
        """The top images with rows of the similarities in place of ids; no more ranks than there are images."""
        top = self.top[:, : min(self.top_k, images)].clone()
        top[..., 1] = torch.searchsorted(ids, top[..., 1].long().contiguous()).double()
        return top

    def _cosine_cubed(self, similarities: Tensor) -> Tensor:
        n = len(similarities)
        mean_z, mean_s = self.z_sums[1] / n, similarities.mean(0)
        # (z - m)^3 (s - t)^3 expanded; z^0 s^j and z^i s^0 come from one side alone.
        binomial = (1.0, 3.0, 3.0, 1.0)
        s_sums = [similarities.pow(j).sum(0) for j in range(4)]
        dot = torch.zeros_like(self.products[0, 0])
        for i in range(4):
            for j in range(4):
                alone = (self.z_sums[i] / n)[:, None] * s_sums[j]  # exact where one of the powers is 0
                moment = self.products[i - 1, j - 1] if i and j else alone
                factor_z = binomial[i] * (-mean_z) ** (3 - i)
                factor_s = binomial[j] * (-mean_s) ** (3 - j)
                dot += factor_z[:, None] * factor_s * moment
        sixth = (1.0, 6.0, 15.0, 20.0, 15.0, 6.0, 1.0)
        norm_z = sum(c * self.z_sums[i] * (-mean_z) ** (6 - i) for i, c in enumerate(sixth)).clamp_min(0).sqrt()
        norm_s = ((similarities - mean_s) ** 6).sum(0).sqrt()
        return dot / (norm_z.clamp_min(MIN_NORM)[:, None] * norm_s.clamp_min(MIN_NORM))


def _safe_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


def _check_pair(latents: Tensor, others: Tensor) -> None:
    if len(latents) != len(others) or not len(latents):
        raise ValueError(f"latents of {len(latents)} images and similarities or embeddings of {len(others)} were given")
    if not (latents.isfinite().all() and others.isfinite().all()):
        raise ValueError("latents or similarities are NaN or infinite")
