"""Whole CLIPs and SigLIPs of transformers, with the calls of open_clip's models."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from cbsae_hub.encoders.vision import preprocess
from cbsae_hub.encoders.weights import load_complete, quiet
from cbsae_hub.hub.locate import Located

TEXT_TOWERS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""Types of models that have a text tower, and their classes."""


class TwoTowers(torch.nn.Module):
    """A CLIP or SigLIP of transformers that is called as one of open_clip."""

    def __init__(self, model: CLIPModel | SiglipModel):
        super().__init__()
        self.model = model

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the inverse temperature."""
        return self.model.logit_scale

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embeddings ``[n, d]`` of pixels ``[n, 3, h, w]``."""
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def encode_text(self, ids: Tensor) -> Tensor:
        """Embeddings ``[n, d]`` of token ids ``[n, tokens]``, filled up to the length that the model reads."""
        return self.model.get_text_features(input_ids=ids).pooler_output


def has_text_tower(located: Located) -> bool:
    """Returns whether a model of transformers has one that names can be compared with.

    Raises:
        OSError: If there is no such model.
    """
    return AutoConfig.from_pretrained(**located.pretrained).model_type in TEXT_TOWERS


def load_two_towers(
    located: Located, name: str | Path, device: str | torch.device
) -> tuple[TwoTowers, Callable[[Image.Image], Tensor], Callable[..., Tensor]]:
    """Loads a model with its preprocessing and its tokenizer: what :class:`cbsae_hub.encoders.ClipLike` is made of.

    Args:
        located: The place of the model.
        name: Name of the model in errors.
        device: Device of the model.

    Raises:
        ValueError: If it has no text tower, or lacks weights.
        OSError: If something is missing.
    """
    config = AutoConfig.from_pretrained(**located.pretrained)
    if config.model_type not in TEXT_TOWERS:
        raise ValueError(f"{name} is of type {config.model_type}, without a text tower: it cannot compare names")
    model = load_complete(TEXT_TOWERS[config.model_type], name, **located.pretrained)
    with quiet():  # the default backend differs by what is installed; PIL gives everybody the same pixels
        processor = AutoImageProcessor.from_pretrained(**located.pretrained, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(**located.pretrained)
    context = min(config.text_config.max_position_embeddings, tokenizer.model_max_length)

    def tokenize(texts: list[str], context_length: int = context) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": context_length}
        return tokenizer(texts, return_tensors="pt", **options).input_ids

    return TwoTowers(model).to(device), lambda image: preprocess(processor, [image])[0], tokenize
