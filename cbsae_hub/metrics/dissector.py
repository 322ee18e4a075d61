"""CLIP-Dissect over a stream of images: names of neurons, and the worth of a name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch
from cbsae_hub.metrics.moments import MomentSums, cosine_cubed_of_moments, cosine_of_moments
from cbsae_hub.metrics.similarities import rank_reorder_of_top
from cbsae_hub.metrics.soft_wpmi import (
    CONCEPT_BLOCK,
    IMAGE_BLOCK,
    SHARPNESS,
    best_of_random,
    evidence_of,
    images_that_count,
    log_normaliser,
    prior_of,
    rank_weights,
    silence,
)
from cbsae_hub.metrics.top_images import StrongestImages, ids_of, values_of

Result = TypeVar("Result")
METHODS = ("soft_wpmi", "cosine", "cosine_cubed", "rank_reorder")
POWERS = {"cosine": (2, 1), "cosine_cubed": (6, 3)}  # up to which moments are streamed, see MomentSums


@dataclass
class Naming:
    """The best concepts of each neuron.

    Attributes:
        scores: ``[neurons, count]``, best first.
        concepts: ``[neurons, count]``, indices into the concept set.
        chance: ``[neurons]`` mean best score of neurons with random top images, as many as count for this neuron, under
            the same prior: the score of a neuron that knows nothing. NaN for methods other than soft-WPMI.
        percentile: ``[neurons]`` share of those that score less: a score in 0..1 that can be compared between concept
            sets, as the raw one cannot. NaN likewise.
        density: ``[neurons]`` share of the images on which a neuron is active. A neuron with 0 has no name.
        own: ``[neurons]`` score of the concept that was asked for; NaN where none was.
    """

    scores: Tensor
    concepts: Tensor
    chance: Tensor
    percentile: Tensor
    density: Tensor
    own: Tensor


class Dissector(StrongestImages):
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

    text_embeddings: Tensor
    embeddings: list[Tensor]

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
        sets = dict(text_embeddings) if isinstance(text_embeddings, Mapping) else {"": text_embeddings}
        if not (sets and all(map(len, sets.values()))):
            raise ValueError("there is a concept set without concepts")
        self.set_sizes = {name: len(texts) for name, texts in sets.items()}
        self.register_buffer("text_embeddings", torch.cat(list(sets.values())), persistent=False)
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
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
        self.add_images(latents, image_ids)
        self.embeddings.append(image_embeddings.to(self.text_embeddings.dtype))
        if self.method in POWERS:
            self._add_moments(latents, image_embeddings.double() @ self.text_embeddings.double().T)

    def _add_moments(self, latents: Tensor, similarities: Tensor) -> None:
        if not self.products:
            sums = MomentSums.about_first_batch(latents, similarities, POWERS[self.method], self.method != "cosine")
            for name, value in sums._asdict().items():
                getattr(self, name).append(value[None])
        MomentSums(*(getattr(self, name)[0][0] for name in MomentSums._fields)).add(latents, similarities)

    def _moments(self, columns: slice) -> list[MomentSums]:
        """The sums of each process or merged metric for some concepts."""
        parts = zip(*(torch.cat(getattr(self, name)) for name in MomentSums._fields))
        return [MomentSums(*part).of_concepts(columns) for part in parts]

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Scores ``[neurons, concepts]``, of each concept set.

        Raises:
            ValueError: See :meth:`TopImages.compute`.
        """
        return self._one_or_all(self._by_set(lambda part: torch.cat([scores for scores, _ in self._scored(part)], 1)))

    def name(self, count: int = 5, null_draws: int = 500, seed: int = 0) -> Naming | dict[str, Naming]:
        """The best concepts of each neuron, of each concept set, without ever holding all scores.

        Args:
            count: Concepts a neuron.
            null_draws: Neurons with random images that the scores are compared with.
            seed: Seed of those images.
        """
        return self._one_or_all(self.name_by_set(count, null_draws, seed))

    def name_by_set(
        self, count: int = 5, null_draws: int = 500, seed: int = 0, own: Tensor | None = None
    ) -> dict[str, Naming]:
        """:meth:`name` by the names of the concept sets.

        Args:
            count: See :meth:`name`.
            null_draws: Likewise.
            seed: Likewise.
            own: A concept of the first set for each neuron, ``[neurons]`` int64, whose score is told too; -1 for none.
        """
        own = torch.full((self.neurons,), -1) if own is None else own
        with self.sync_context():
            return self._by_set(lambda part: self._name(part, count, null_draws, seed, own.to(self.ids().device)))

    def _by_set(self, of_columns: Callable[[slice], Result]) -> dict[str, Result]:
        ends = list(accumulate(self.set_sizes.values()))
        return {name: of_columns(slice(*ends)) for name, *ends in zip(self.set_sizes, [0, *ends[:-1]], ends)}

    def _one_or_all(self, results: dict[str, Result]) -> Result | dict[str, Result]:
        return results if self.named_sets else results[""]

    def _name(self, columns: slice, count: int, draws: int, seed: int, own: Tensor) -> Naming:
        texts = self.text_embeddings[columns]
        best = torch.full((self.neurons, 0), -torch.inf, dtype=texts.dtype, device=texts.device)
        which = torch.empty((self.neurons, 0), dtype=torch.int64, device=texts.device)
        draws = draws if self.method == "soft_wpmi" else 0
        null = torch.full((min(self.k, len(self.ids())), draws), -torch.inf, dtype=texts.dtype, device=texts.device)
        start, of_own = 0, torch.full((self.neurons,), torch.nan, dtype=texts.dtype, device=texts.device)
        for scores, null_best in self._scored(columns, draws, seed):
            place = own - columns.start - start
            inside = (own >= 0) & (place >= 0) & (place < scores.shape[1])
            of_own[inside] = scores[inside, place[inside]].to(of_own.dtype)
            numbers = torch.arange(start, start + scores.shape[1], device=texts.device).expand(len(scores), -1)
            start += scores.shape[1]
            pool = torch.cat([best, scores], 1)
            best, place = pool.topk(min(count, pool.shape[1]), dim=1)
            which = torch.cat([which, numbers], 1).gather(1, place)
            null = torch.maximum(null, null_best)
        density = self.fired / len(self.ids())
        if not draws:
            unknown = torch.full_like(best[:, 0], torch.nan)
            return Naming(best, which, unknown, unknown, density, of_own)
        # Compared with neurons that as many images count for.
        last = images_that_count(values_of(self.filled_keys()), self.count_silent).clamp_min(1) - 1
        percentile = (null[last] < best[:, :1]).to(best.dtype).mean(1)
        return Naming(best, which, null.mean(1)[last], percentile, density, of_own)

    def image_embeddings(self) -> Tensor:
        """The judge's embeddings of all images, ``[images, d]``, by ascending id.

        Raises:
            ValueError: If there are none.
        """
        self.ids()  # raises it
        return torch.cat(self.embeddings)[torch.cat(self.image_ids).argsort()]

    def _scored(self, columns: slice, draws: int = 0, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of columns of the scores of all neurons; and see :func:`best_of_random`."""
        ids, embeddings, texts = self.ids(), self.image_embeddings(), self.text_embeddings[columns]
        none = texts.new_empty(min(self.k, len(ids)), 0)
        if self.method == "soft_wpmi":
            yield from self._soft_wpmi(ids, embeddings, texts, draws, seed)
            return
        similarities = embeddings.double() @ texts.double().T
        if self.method == "rank_reorder":
            keys = self.filled_keys()[:, : max(1, int(self.top_fraction * len(ids)))]
            yield rank_reorder_of_top(values_of(keys), torch.searchsorted(ids, ids_of(keys)), similarities), none
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
        normaliser = torch.cat([log_normaliser(part @ texts.T, SHARPNESS) for part in embeddings.split(IMAGE_BLOCK)])
        alive, counts = top[:, 0] > 0, images_that_count(top, self.count_silent)
        for part in texts.split(CONCEPT_BLOCK):
            probabilities = (SHARPNESS * embeddings @ part.T).sub_(normaliser[:, None]).exp_()
            evidence = evidence_of(rows, counts, weights, probabilities)
            prior = prior_of(evidence, alive)
            yield silence(evidence.sub_(prior), alive), best_of_random(random, weights, probabilities, prior)
