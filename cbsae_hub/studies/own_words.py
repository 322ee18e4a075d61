"""Neurons in LLaVA's own words: a neuron's direction is added while LLaVA looks at white, or at its masked top images.

Controls: white and noise without a direction, a random direction that is as long, the masked images without a
direction. The words for another neuron are those of this study, see :func:`cbsae_hub.studies.names.shuffled`.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from cbsae_hub.data.images import read_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pictures import ImageDataset, to_rgb
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.scoring.outcomes import WHITE
from cbsae_hub.steering import Edit, LlavaSteerer, RandomDirection, Steering
from cbsae_hub.steering.edits import AnySteering

SIDE = 336  # pixels of a masked image's longer side
KEEP = 0.5
"""A patch is shown if the neuron's latent there is at least this share of its largest in the image."""
BATCH = 16


class MaskedImages:
    """Top images of neurons as the encoder sees them, white where the neuron is weak.

    Of a model without patches there is nothing to mask by: its images are shown whole.

    Args:
        sae: The model.
        encoder: The encoder that it explains.
        images: The data set with the rows of ``top_images``.
        count: Images of a neuron, at most.
    """

    def __init__(self, sae: SAE | CBSAE, encoder: VisionEncoder, images: ImageDataset, count: int):
        self._sae, self._encoder, self._images, self._count = sae, encoder, images, count

    @torch.no_grad()
    def __call__(self, neuron: int, rows: Sequence[int]) -> list[Image.Image]:
        """The masked images of a neuron, of the first of some rows."""
        pictures = [read_images(self._images, int(row), int(row) + 1)[0] for row in rows[: self._count]]
        if not pictures or self._encoder.patch_rows is None:
            return [to_rgb(picture) for picture in pictures]
        values, owners = self._sae.encode_sparse(self._encoder(pictures))
        latents = (values * (owners == neuron)).sum(-1)[:, self._encoder.patch_rows].clamp_min(0).cpu()
        visible = (latents >= KEEP * latents.amax(1, keepdim=True)).reshape(-1, *self._encoder.grid)
        return [self._mask(picture, one) for picture, one in zip(pictures, visible)]

    def _mask(self, picture: Image.Image, visible: torch.Tensor) -> Image.Image:
        picture = self._encoder.show(picture, SIDE)
        mask = Image.fromarray(visible.numpy().astype("uint8") * 255).resize(picture.size, Image.Resampling.NEAREST)
        return self._encoder.framed(Image.composite(picture, Image.new("RGB", picture.size, "white"), mask))


class OwnWords:
    """Asks LLaVA about neurons.

    Args:
        llava: LLaVA with the model.
        masked: Gives a neuron's masked top images.
        alpha: How much of the neuron's direction is added at every token; the rest of the activations stays.
        prompt: The question.
        max_new_tokens: Answers end there at the latest.
        seed: Seed of the random directions.
    """

    def __init__(
        self,
        llava: LlavaSteerer,
        masked: Callable[[int, Sequence[int]], list[Image.Image]],
        alpha: float = 50.0,
        prompt: str = ONE_WORD,
        max_new_tokens: int = 16,
        seed: int = 0,
    ):
        self.llava, self.masked, self.alpha, self.prompt = llava, masked, alpha, prompt
        self.max_new_tokens, self.seed = max_new_tokens, seed

    def ways(self, neurons: pd.DataFrame) -> dict[str, Callable[[], list[str]]]:
        """The ways to ask; each gives a text for every neuron.

        Of several images the answer that most of them get counts, of equally many the one of the strongest image. An
        EditError is raised if a neuron's direction changes nothing of what LLaVA reads.

        Args:
            neurons: Rows of a neuron table, with the columns ``neuron`` and ``top_images``.
        """
        ids = neurons["neuron"].tolist()
        added = [self._added(neuron) for neuron in ids]
        noise = [RandomDirection(one, self.seed + neuron) for one, neuron in zip(added, ids)]
        nothing = [None] * len(ids)
        return {
            "LLaVA, white, direction added": lambda: self._ask([WHITE] * len(ids), added),
            "LLaVA, masked images, direction added": lambda: self._about_images(neurons, added),
            "control: LLaVA, white": lambda: self._ask([WHITE], [None]) * len(ids),
            "control: LLaVA, noise": lambda: self._ask([noise_image(self.seed)], [None]) * len(ids),
            "control: LLaVA, white, random direction": lambda: self._ask([WHITE] * len(ids), noise),
            "control: LLaVA, masked images": lambda: self._about_images(neurons, nothing),
        }

    def _about_images(self, neurons: pd.DataFrame, steerings: Sequence[AnySteering | None]) -> list[str]:
        """The most frequent answer about each neuron's masked images, with its steering."""
        pictures, owners = [], []
        for place, row in enumerate(neurons.itertuples()):
            own = self.masked(row.neuron, row.top_images)
            pictures += own
            owners += [place] * len(own)
        return most_frequent(self._ask(pictures, [steerings[place] for place in owners]), owners, len(neurons))

    def _added(self, neuron: int) -> Steering:
        return Steering([Edit(neuron, self.alpha, "add")], keep_error=True)

    def _ask(self, pictures: Sequence[Image.Image], steerings: Sequence[AnySteering | None]) -> list[str]:
        answers: list[str] = []
        for start in tqdm(range(0, len(pictures), BATCH), desc="ask LLaVA", unit=f"x {BATCH} answers"):
            part = slice(start, start + BATCH)
            answers += self.llava.generate(
                pictures[part], self.prompt, list(steerings[part]), self.max_new_tokens, batch=BATCH
            )
        return answers


def noise_image(seed: int) -> Image.Image:
    """A picture of random pixels, as large as the white one."""
    width, height = WHITE.size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def most_frequent(answers: Sequence[str], owners: Sequence[int], count: int) -> list[str]:
    """The most frequent answer of each of ``count`` owners, of equally frequent ones the first; "" without any."""
    by_owner: list[list[str]] = [[] for _ in range(count)]
    for answer, owner in zip(answers, owners):
        by_owner[owner].append(answer.strip().lower())
    return [Counter(own).most_common(1)[0][0] if own else "" for own in by_owner]
