"""A teacher's embeddings of all images, computed once: any list of concepts is then one product away."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.vision.clip_like import ClipLike
from cbsae_hub.vision.encoder import to_rgb


class _Embedding:
    """An image-text model as an encoder of one token per image, its unit embedding."""

    tokens_per_image = 1

    def __init__(self, teacher: ClipLike):
        self._teacher = teacher
        self.d_in = teacher.embed_images([Image.new("RGB", (64, 64))]).shape[1]

    def provenance(self) -> dict[str, Any]:
        return {"encoder_id": self._teacher.repo_id, "encoder_revision": self._teacher.revision, "tokens": "embedding"}

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([self._teacher.preprocess(to_rgb(image)) for image in images])

    def __call__(self, pixels: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        return self._teacher.embed_pixels(pixels)[:, None]


def extract_embeddings(
    teacher: ClipLike,
    images: Any,
    folder: str | Path,
    *,
    source: dict[str, Any],
    batch_size: int = 64,
    accelerator: Accelerator | None = None,
) -> ActivationStore:
    """Fills a store with the teacher's unit embeddings, one row per image, float16; goes on where it was killed.

    Args:
        teacher: The image-text model.
        images: See :func:`cbsae_hub.data.extraction.extract_activations`; so are errors.
        folder: Where; created.
        source: What the images are.
        batch_size: Images a forward pass.
        accelerator: Of several processes.
    """
    return extract_activations(
        _Embedding(teacher), images, folder, source=source, batch_size=batch_size, accelerator=accelerator
    )


def all_embeddings(store: ActivationStore) -> torch.Tensor:
    """Embeddings of all images in memory, ``[images, e]`` in the stored dtype.

    Raises:
        ValueError: If the store is of something else.
    """
    if store.manifest["encoder"].get("tokens") != "embedding":
        raise ValueError(f"{store.folder} holds activations, not a teacher's embeddings")
    return store.read(0, len(store))
