"""Activations and embeddings of the probe images on disk: all models of one encoder are scored on the same ones."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import all_embeddings, extract_embeddings
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.scorer import Observation


class Probe:
    """Activations of all tokens and the judges' embeddings of some images.

    Args:
        activations: Activations of all tokens.
        judges: Embeddings of each judge of names, ``[images, d]``, by a name for it.
        similarity: Embeddings of the judge of MonoSemanticity, ``[images, e]``.
    """

    def __init__(self, activations: ActivationStore, judges: Mapping[str, Tensor], similarity: Tensor):
        self.activations, self.judges, self.similarity = activations, dict(judges), similarity

    @classmethod
    def make(
        cls,
        folder: str | Path,
        encoder: VisionEncoder,
        images: ImageDataset,
        *,
        source: dict[str, Any],
        judges: Mapping[str, ClipLike],
        similarity: ClipLike | VisionEncoder,
    ) -> "Probe":
        """Runs encoder and judges on images, or opens the stores of an earlier call; a killed one is continued.

        Args:
            folder: Folder of the stores.
            encoder: The encoder, of which the layer counts, not the tokens.
            images: Map-style dataset with a column ``image``.
            source: Id and split of the images.
            judges: Judges of names.
            similarity: Judge of MonoSemanticity.

        Raises:
            OSError: If the folder is of other images or models.
        """
        folder = Path(folder)
        options: dict[str, Any] = {"source": source, "dtype": "float32"}
        every = VisionEncoder(encoder.model, encoder.processor, encoder.layer, "all", encoder.repo_id, encoder.revision)

        def embeddings(model: ClipLike | VisionEncoder, name: str) -> Tensor:
            return all_embeddings(extract_embeddings(model, images, folder / name, **options))

        return cls(
            extract_activations(every, images, folder / "activations", **options),
            {name: embeddings(judge, f"judge-{name}") for name, judge in judges.items()},
            embeddings(similarity, "similarity"),
        )

    def __len__(self) -> int:
        return self.activations.num_images

    def batches(self, judge: str, size: int = 64) -> Iterator[tuple[Tensor, Observation]]:
        """Ids of images and their observations with this judge of names, in order, ``size`` images at once."""
        tokens = self.activations.tokens_per_image
        for start in range(0, len(self), size):
            ids = torch.arange(start, min(start + size, len(self)))
            rows = self.activations.read(start * tokens, (int(ids[-1]) + 1) * tokens)
            yield ids, Observation(rows.unflatten(0, (-1, tokens)), self.judges[judge][ids], self.similarity[ids])
