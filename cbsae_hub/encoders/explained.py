"""The encoder that a model explains."""

from pathlib import Path

import torch

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.formats.load import require_encoder
from cbsae_hub.models import CBSAE, SAE


def whole_image(tokens: str) -> str:
    """The tokens of a whole image for a model that was trained on ``tokens``: "random:n" becomes "all"."""
    return "all" if tokens.startswith("random:") else tokens


def explained_encoder(
    sae: SAE | CBSAE, encoder: str | None = None, device: str | torch.device = "cpu", beside: str | Path | None = None
) -> VisionEncoder:
    """The encoder that a model explains, with the tokens that scores are of.

    Those are whole images, see :func:`whole_image`.

    Args:
        sae: The model.
        encoder: Instead of the one that the model's config names.
        device: Device of the encoder.
        beside: A model folder next to which it may lie.

    Raises:
        ValueError: If it is of another revision than the model was trained on, or the model does not say what it
            explains.
        OSError: If there is no such encoder.
    """
    require_encoder(sae, encoder)
    return VisionEncoder.from_pretrained(
        encoder or sae.encoder_id, sae.layer, whole_image(sae.tokens), sae.encoder_revision, device, beside=beside
    )
