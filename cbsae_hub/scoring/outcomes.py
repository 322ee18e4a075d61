"""Outcomes of steering: words of LLaVA and drawings of unCLIP with one neuron set at a time, and their scores."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.encoders.site import EditError
from cbsae_hub.metrics.steerability import image_steerability, text_steerability
from cbsae_hub.pictures import ImageDataset, to_rgb, white_image
from cbsae_hub.scoring.first_words import FirstWords
from cbsae_hub.scoring.report import mean
from cbsae_hub.scoring.single_neurons import SingleNeurons
from cbsae_hub.steering.base import Steerer
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.steering.unclip import UnclipSteerer
from cbsae_hub.words import same_name

LENGTH_IMAGES = 64  # a push is compared with the median length of their activations
MODES = ("unit", "white")
WHITE = white_image()
DRAWINGS = 16  # in a batch


class Outcomes:
    """The input of a generator with neurons set one at a time, and of the controls.

    Args:
        steerer: The generator's steerer; activations of a white image are taken from it.
        onward: Computes the generator's input ``[n, ...]`` from activations ``[n, tokens, d]``.
        isolate: Unit vector instead of the white image.
        seed: Seed of the random directions.
    """

    def __init__(self, steerer: Steerer, onward: Callable[[Tensor], Tensor], isolate: bool, seed: int):
        self.stream = steerer.activations([WHITE])[0].float()
        self.neurons = SingleNeurons(steerer.tower.sae, self.stream, isolate)
        self._onward, self._seed, self._place = onward, seed, steerer.tower.site.name
        self.plain = onward(self.neurons.plain)

    def steered(self, ids: Sequence[int], values: Sequence[float]) -> Tensor:
        """The generator's input with each neuron set.

        Raises:
            EditError: If it is the same as without.
        """
        result = self._onward(self.neurons.set(ids, values))
        unchanged = (result == self.plain).flatten(1).all(1).nonzero().flatten().tolist()
        if unchanged:
            raise EditError(
                f"steering had no effect: setting neuron {ids[unchanged[0]]} to {values[unchanged[0]]:g} at "
                f"{self._place} leaves what the model reads as it was. Is its decoder row zero, or is no steered token "
                "read?"
            )
        return result

    def random(self, ids: Sequence[int], values: Sequence[float]) -> Tensor:
        """The generator's input with each image pushed as far in a random direction."""
        return self._onward(self.neurons.pushed_randomly(ids, values, self._seed))

    def versions(self, ids: Sequence[int], values: Sequence[float]) -> dict[str, Tensor]:
        """Both inputs, by the ending of the columns that hold their scores."""
        return {"": self.steered(ids, values), "_random": self.random(ids, values)}


class TopImageEmbeddings:
    """A judge's embeddings of the neurons' top images; each image is embedded once.

    Args:
        embed: The judge: ``images -> [images, e]``.
        images: The data set with the rows of ``top_images``.
    """

    def __init__(self, embed: Callable[[list[Image.Image]], Tensor], images: ImageDataset):
        self._embed, self._images = embed, images
        self._by_row: dict[int, Tensor] = {}

    def __call__(self, top_images: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings ``[neurons, images, e]``, padded with zeros."""
        missing = sorted({int(row) for rows in top_images for row in rows} - self._by_row.keys())
        if missing:
            embeddings = self._embed([to_rgb(self._images[row]["image"]) for row in missing]).float().cpu()
            self._by_row |= dict(zip(missing, embeddings))
        stacks = [torch.stack([self._by_row[int(row)] for row in rows]) for rows in top_images]
        return torch.nn.utils.rnn.pad_sequence(stacks, batch_first=True)


class Words:
    """Scores of the first words of LLaVA; arguments are those of :class:`SteerabilityScorer`."""

    def __init__(
        self,
        llava: LlavaSteerer,
        sentences: Sentences,
        clip: ClipLike | None,
        images: ImageDataset,
        prompt: str,
        seed: int,
    ):
        self._sentences, self._first_words = sentences, FirstWords(llava, prompt)
        self._outcomes = {mode: Outcomes(llava, llava.features_of, mode == "unit", seed) for mode in MODES}
        self._clip = None if clip is None else _ClipWords(clip, images)
        pictures = [images[row]["image"] for row in spread(range(len(images)), LENGTH_IMAGES)]
        # Of the activations at LLaVA's steered block: pushes are compared with it.
        self.median_length = float(llava.activations(pictures).float().norm(dim=-1).median())

    def columns(self, rows: pd.DataFrame, values: list[float]) -> dict[str, list[Any]]:
        """Columns of the neuron table for neurons that are set to values."""
        ids, concepts = rows["neuron"].tolist(), self._sentences(rows["name"].tolist())
        columns: dict[str, list[Any]] = {}
        for mode, outcomes in self._outcomes.items():
            columns[f"steer_push_{mode}"] = (outcomes.neurons.displacement(ids, values) / self.median_length).tolist()
            for ending, features in outcomes.versions(ids, values).items():
                words = self._first_words(features)
                columns[f"said_{mode}{ending}"] = words
                columns[f"steer_text_{mode}{ending}"] = text_steerability(self._sentences(words), concepts).tolist()
            if self._clip is not None:
                scores = self._clip(columns[f"said_{mode}"], rows["top_images"].tolist())
                columns[f"steer_clip_{mode}"] = scores.tolist()
        return columns

    def summary(self, scores: pd.DataFrame, names: list[str], seed: int) -> dict[str, Any]:
        """Figures of all scored neurons, with the controls; ``seed`` is that of a permutation of their names."""
        concepts, permutation = self._sentences(names), np.random.default_rng(seed).permutation(len(scores))
        summary = {}
        for mode, outcomes in self._outcomes.items():
            words = scores[f"said_{mode}"].tolist()
            plain = self._first_words(outcomes.plain)[0]
            summary[f"said_{mode}"] = {
                "reconstruction_only": plain,
                "different_words": len(set(filter(None, words))),
                "is_concept": mean([same_name(word, name) for word, name in zip(words, names)]),
                "reconstruction_score": mean(text_steerability(self._sentences([plain] * len(names)), concepts)),
                "shuffled_score": mean(text_steerability(self._sentences(words), concepts[permutation])),
            }
        return summary


class _ClipWords:
    """Pach et al.'s score: CLIP's cosine of a word and the mean of the top images."""

    def __init__(self, clip: ClipLike, images: ImageDataset):
        self._examples = TopImageEmbeddings(clip.embed_images, images)
        self._embed = functools.cache(lambda word: clip.embed_texts([word])[0])  # thousands of neurons share few words

    def __call__(self, words: list[str], top_images: list[Sequence[int]]) -> Tensor:
        means = self._examples(top_images).sum(1)  # for a cosine the sum is as good
        nothing = torch.zeros(means.shape[1])
        return text_steerability(torch.stack([self._embedding(word, nothing) for word in words]), means)

    def _embedding(self, word: str, nothing: Tensor) -> Tensor:
        """CLIP's embedding of a word; ``nothing`` for an empty one or one that its tokenizer cannot read."""
        try:
            return self._embed(word) if word else nothing
        except ValueError:
            return nothing


class Drawings:
    """Scores of the drawings of unCLIP; arguments are those of :class:`SteerabilityScorer`, the judge ``pictures``."""

    def __init__(
        self,
        unclip: UnclipSteerer,
        judge: Callable[[list[Image.Image]], Tensor],
        images: ImageDataset,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        seed: int,
    ):
        self._unclip, self._judge, self._seeds, self._options = unclip, judge, list(seeds), (steps, guidance)
        self._examples = TopImageEmbeddings(judge, images)
        self._outcomes = {mode: Outcomes(unclip, unclip.embeds_of, mode == "unit", seed) for mode in MODES}

    def columns(self, rows: pd.DataFrame, values: list[float]) -> dict[str, list[float]]:
        """Columns of the neuron table for neurons that are set to values."""
        examples, columns = self._examples(rows["top_images"].tolist()), {}
        for mode, outcomes in self._outcomes.items():
            for ending, embeds in outcomes.versions(rows["neuron"].tolist(), values).items():
                columns[f"steer_image_{mode}{ending}"] = image_steerability(self._draw(embeds), examples).tolist()
        return columns

    def _draw(self, embeds: Tensor) -> Tensor:
        """The judge's embeddings of drawings, ``[neurons, seeds, e]``."""
        jobs = [(embedding, seed) for embedding in embeds for seed in self._seeds]
        drawings: list[Image.Image] = []
        for start in range(0, len(jobs), DRAWINGS):
            part, seeds = zip(*jobs[start : start + DRAWINGS])
            drawings += self._unclip.draw(torch.stack(part), seeds, *self._options)
        return self._judge(drawings).float().unflatten(0, (len(embeds), len(self._seeds)))


def spread(rows: Sequence[int], count: int | None) -> list[int]:
    """So many of the rows, evenly spread; all if there are no more."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]
