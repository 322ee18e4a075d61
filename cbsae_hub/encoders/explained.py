"""The encoder that a model explains."""

from pathlib import Path
from typing import Any

import torch

from cbsae_hub.encoders.image_tokens import ImageTokenEncoder
from cbsae_hub.encoders.language import LanguageEncoder
from cbsae_hub.encoders.text import TextEncoder
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

    Those are whole images, see :func:`whole_image`. Of an SAE inside a LLaVA they are the tokens of a picture.

    Args:
        sae: The model.
        encoder: Instead of the one that the model's config names.
        device: Device of the encoder.
        beside: A model folder next to which it may lie.

    Raises:
        ValueError: If it is of another revision than the model was trained on, the model does not say what it
            explains, or it explains tokens of texts: :func:`explained_tower` loads that.
        OSError: If there is no such encoder.
    """
    require_encoder(sae, encoder)
    if sae.tower in ("language", "projector") and (sae.tokens == "image" or sae.tokens.startswith("random:")):
        return ImageTokenEncoder(_inside_llava(sae, encoder or sae.encoder_id, "image", device, beside))
    if sae.tower not in (None, "vision"):
        raise ValueError(
            f"this SAE explains {sae.tokens} tokens of the {sae.tower} tower of {sae.encoder_id}, which are no "
            "tokens of pictures: explained_tower loads that, and `cbsae score --words` names its neurons"
        )
    return VisionEncoder.from_pretrained(
        encoder or sae.encoder_id, sae.layer, whole_image(sae.tokens), sae.encoder_revision, device, beside=beside
    )


def explained_tower(
    sae: SAE | CBSAE, encoder: str | None = None, device: str | torch.device = "cpu", beside: str | Path | None = None
) -> TextEncoder | LanguageEncoder:
    """The text encoder, language model or projector that a model explains, as it was read for its training.

    With "random:n" tokens, it reads all that they were drawn from. Arguments and errors are those of
    :func:`explained_encoder`.
    """
    require_encoder(sae, encoder)
    tower, model, tokens = sae.tower, encoder or sae.encoder_id, sae.tokens
    if tower == "text":
        place: dict[str, Any] = {"revision": sae.encoder_revision, "device": device, "beside": beside}
        return TextEncoder.from_pretrained(model, sae.layer, _all_of(tokens, "words"), **place)
    if tower not in ("language", "projector"):
        raise ValueError(f"this SAE explains {model}, a vision encoder: explained_encoder loads that")
    return _inside_llava(sae, model, _all_of(tokens, "image" if tower == "projector" else "all"), device, beside)


def _inside_llava(
    sae: SAE | CBSAE, model: str, tokens: str, device: str | torch.device, beside: str | Path | None
) -> LanguageEncoder:
    """The place in a LLaVA that an SAE explains, asked as for its training."""
    settings = sae.preprocessing if isinstance(sae.preprocessing, dict) else {}
    options = {name: settings[name] for name in ("prompt", "max_new_tokens") if name in settings}
    place: dict[str, Any] = {"revision": sae.encoder_revision, "device": device, "beside": beside}
    return LanguageEncoder.from_pretrained(model, sae.layer, tokens, sae.tower, **place, **options)


def _all_of(tokens: str, every: str) -> str:
    return every if tokens.startswith("random:") else tokens
