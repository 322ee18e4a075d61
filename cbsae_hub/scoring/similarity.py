"""Judges of how alike pictures are: what MonoSemanticity and image steerability are measured with."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.vision import VisionEncoder


def image_model(
    repo_id: str, device: str | torch.device = "cpu", beside: str | Path | None = None
) -> ClipLike | VisionEncoder:
    """Whatever embeds pictures by that id: a model of open_clip, or a vision encoder.

    Raises:
        ValueError: If the model is of no known kind, or has no embedding.
        OSError: If there is no such model.
    """
    kind = ClipLike if ClipLike.knows(repo_id, beside) else VisionEncoder
    model = kind.from_pretrained(repo_id, device=device, beside=beside)
    if isinstance(model, VisionEncoder):
        model.require_embedding()
    return model


@dataclass(frozen=True)
class ImageEmbedder:
    """Makes ``[images, d]`` unit embeddings of pictures, on the CPU, and says by which model."""

    model: ClipLike | VisionEncoder

    def __call__(self, pictures: list[Image.Image]) -> Tensor:
        """Embeddings of pictures."""
        if isinstance(self.model, ClipLike):
            return self.model.embed_images(pictures)
        return self.model.embed(pictures).cpu()

    repo_id = property(lambda self: self.model.repo_id)
    revision = property(lambda self: self.model.revision)


@dataclass(frozen=True)
class OwnActivations:
    """Embeddings ``[images, d_in]``, unit, by the explained encoder itself: the mean of a picture's activations.

    Where there is no judge, MonoSemanticity is measured with these. They are what the SAE reads, so that it says how
    alike pictures are to the encoder, not to anybody else.
    """

    encoder: VisionEncoder

    def __call__(self, pictures: list[Image.Image]) -> Tensor:
        """Embeddings of pictures."""
        return self.of_tokens(self.encoder(pictures)).cpu()

    @staticmethod
    def of_tokens(v: Tensor) -> Tensor:
        """Embeddings of activations ``[images, tokens, d_in]``."""
        return F.normalize(v.float().mean(1), dim=-1)

    repo_id = property(lambda self: self.encoder.repo_id, doc="Folder or Hub id of the encoder.")
    revision = property(lambda self: self.encoder.revision, doc="Its version.")
