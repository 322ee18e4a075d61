"""Is a concept's neuron sufficient for it, and necessary? CLIP, LLaVA and unCLIP look while it is set or ablated.

:mod:`cbsae_hub.metrics.interventions` defines the scores.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.images import read_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.metrics.interventions import Interventions, InterventionScores
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, LlavaSteerer, Steering, UnclipSteerer
from cbsae_hub.steering.clip import ClipZeroShotSteerer
from cbsae_hub.studies.names import says

Witness = Callable[[Sequence[Image.Image], Sequence[Steering | None]], Tensor]
"""What a model shows of pictures, each with its steering or none: bool ``[pictures, concepts]``."""

EACH = 8  # images of a concept that its neuron is set on, and as many that it is ablated on
NO_NEURON = -1


def clip_chooses(clip: ClipZeroShotSteerer) -> Witness:
    """The concept of its vocabulary that CLIP finds most probable."""

    def see(pictures: Sequence[Image.Image], steerings: Sequence[Steering | None]) -> Tensor:
        return _largest(clip.effect(pictures, list(steerings)).after)

    return see


def llava_says(llava: LlavaSteerer, concepts: Sequence[str], prompt: str = ONE_WORD, **options: Any) -> Witness:
    """The concepts that LLaVA's answer names; ``options`` are those of :meth:`LlavaSteerer.generate`."""

    def see(pictures: Sequence[Image.Image], steerings: Sequence[Steering | None]) -> Tensor:
        answers = llava.generate(pictures, prompt, list(steerings), **options)
        return torch.tensor([[says(answer, concept) for concept in concepts] for answer in answers])

    return see


def unclip_draws(unclip: UnclipSteerer, judge: ClipLike, concepts: Sequence[str], **options: Any) -> Witness:
    """The concept that a judge sees in unCLIP's drawing; ``options`` are those of :meth:`UnclipSteerer.generate`."""
    texts = judge.embed_texts(list(concepts))

    def see(pictures: Sequence[Image.Image], steerings: Sequence[Steering | None]) -> Tensor:
        drawings = unclip.generate(pictures, list(steerings), seeds=(0,), **options)
        return _largest(judge.embed_images(drawings) @ texts.T)

    return see


def _largest(scores: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(scores.argmax(1).cpu(), scores.shape[1]).bool()


def intervene(
    witness: Witness,
    images: ImageDataset,
    labels: np.ndarray,
    latents: np.ndarray,
    neurons: Sequence[int],
    strength: float = 50.0,
    each: int = EACH,
    batch: int = 16,
    seed: int = 0,
) -> InterventionScores:
    """Sets each concept's neuron on images without the concept, and ablates it on images with it.

    The SAE's error is kept, so that nothing else changes. A neuron that is silent on an image cannot be ablated there:
    nothing goes. Nor does anything come or go of a concept without a neuron.

    Args:
        witness: What shows concepts.
        images: The images.
        labels: ``[images, concepts]`` bool.
        latents: The neurons' image-level latents, ``[images, concepts]``: a column for each concept's neuron.
        neurons: ``[concepts]``, the neuron of each; -1 where there is none.
        strength: The value that it is set to.
        each: Images of either kind for each concept, at most.
        batch: Images at once.
        seed: Seed of the draw of images.

    Raises:
        ValueError: If numbers of images or concepts differ, or no concept has an image.
        EditError: If a steering leaves what the model reads as it was.
    """
    if not len(images) == len(labels) == len(latents) or not labels.shape[1] == latents.shape[1] == len(neurons):
        raise ValueError(
            f"{len(images)} images, labels {labels.shape}, latents {latents.shape} and {len(neurons)} neurons were "
            "given: they must be of the same images and concepts"
        )
    rng, jobs = np.random.default_rng(seed), []
    for concept, neuron in enumerate(neurons):
        for ablated in (False, True):
            sample = rng.permutation(np.flatnonzero(labels[:, concept] == ablated))[:each]
            for row in sample.tolist():
                acts = neuron != NO_NEURON and (not ablated or latents[row, concept] > 0)
                edit = Edit(int(neuron), 0.0 if ablated else strength)
                jobs.append((row, concept, ablated, Steering([edit], keep_error=True) if acts else None))
    if not jobs:
        raise ValueError("no concept has an image on which its neuron could be set or ablated")
    plain = dict.fromkeys(row for row, *_ in jobs)
    before = _concepts_of(witness, images, list(plain), [None] * len(plain), batch, "as they are")
    place = {row: number for number, row in enumerate(plain)}
    acting = [number for number, (*_, steering) in enumerate(jobs) if steering is not None]
    own = before[[place[row] for row, *_ in jobs]]
    after = own.clone()
    if acting:
        rows = [jobs[number][0] for number in acting]
        steerings = [jobs[number][3] for number in acting]
        after[acting] = _concepts_of(witness, images, rows, steerings, batch, "set or ablated")
    metric = Interventions(len(neurons))
    _, concepts, ablations, _ = zip(*jobs)
    metric.update(own, after, torch.tensor(concepts), torch.tensor(ablations))
    return metric.compute()


def _concepts_of(
    witness: Witness,
    images: ImageDataset,
    rows: Sequence[int],
    steerings: Sequence[Steering | None],
    batch: int,
    title: str,
) -> Tensor:
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc=title, unit="batch"):
        part = slice(start, start + batch)
        parts.append(witness([read_images(images, row, row + 1)[0] for row in rows[part]], steerings[part]))
    return torch.cat(parts)
