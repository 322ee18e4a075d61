"""A model's embeddings of all images, computed once: any list of concepts is then one product away."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.pictures import ImageDataset

TOKENS = "embedding"  # in a store's manifest


class _Embedding:
    """A model as an encoder of one token per image, its unit embedding."""

    tokens_per_image = 1

    def __init__(self, model: ClipLike | VisionEncoder):
        self._model = model
        self._embed = model.embed_pixels if isinstance(model, ClipLike) else model.embed
        self.d_in = self(self.pixel_values([Image.new("RGB", (64, 64))]), [0]).shape[-1]

    def provenance(self) -> dict[str, Any]:
        return {"encoder_id": self._model.repo_id, "encoder_revision": self._model.revision, "tokens": TOKENS}

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return self._model.pixel_values(images)

    def __call__(self, images: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        return self._embed(images)[:, None]


def extract_embeddings(
    model: ClipLike | VisionEncoder,
    images: ImageDataset,
    folder: str | Path,
    *,
    source: dict[str, Any],
    accelerator: Accelerator | None = None,
    **options: Any,
) -> ActivationStore:
    """Fills a store with a model's unit embeddings, one row per image; goes on where it was killed.

    Args:
        model: An image-text model, a teacher for instance; or a vision encoder, whatever its layer.
        images: See :func:`cbsae_hub.data.extraction.extract_activations`; so are errors.
        folder: Folder of the store; created.
        source: Description of the images.
        accelerator: The run's, if it has several processes.
        **options: ``dtype``, by default float16, and others of ``extract_activations``.
    """
    return extract_activations(_Embedding(model), images, folder, source=source, accelerator=accelerator, **options)


def all_embeddings(store: ActivationStore) -> torch.Tensor:
    """Embeddings of all images in memory, ``[images, e]`` in the stored dtype.

    Raises:
        ValueError: If the store is of something else.
    """
    if store.manifest["encoder"].get("tokens") != TOKENS:
        raise ValueError(f"{store.folder} holds activations, not embeddings")
    return store.read(0, len(store))
