"""Families of vision encoders that are known: CLIP, SigLIP, DINO 1 to 3, and other plain ViT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        model: The class of transformers to load.
        cls_token: Whether the first token is a CLS token.
        pooled: Picks the image embedding from what the model returns.
        pool: What the model does to get it from the tokens that leave its last block.
        options: For the class.
    """

    model: str
    cls_token: bool
    pooled: Callable[[Any], torch.Tensor]
    pool: Callable[[Any, torch.Tensor], torch.Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)


def pool_clip(model: Any, v: torch.Tensor) -> torch.Tensor:
    """The image embedding, not normalised, that a CLIP makes of what leaves its last block: ``[images, tokens, d]``."""
    return model.visual_projection(model.vision_model.post_layernorm(v[:, 0]))


def _pool_siglip(model: Any, v: torch.Tensor) -> torch.Tensor:
    tower = getattr(model, "vision_model", model)
    return tower.head(tower.post_layernorm(v))


def _pool_dino(model: Any, v: torch.Tensor) -> torch.Tensor:
    norm = model.norm if hasattr(model, "norm") else model.layernorm
    return norm(v[:, 0])


def _dino(model: str, **options: Any) -> Family:
    """Of a model whose pooled output is its normed CLS token."""
    return Family(model, True, lambda output: output.last_hidden_state[:, 0], _pool_dino, options)


_CLIP = Family("CLIPVisionModelWithProjection", True, attrgetter("image_embeds"), pool_clip)
_SIGLIP = Family("SiglipVisionModel", False, attrgetter("pooler_output"), _pool_siglip)
FAMILIES = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "vit": _dino("ViTModel", add_pooling_layer=False),  # DINO has no weights for that layer, which would be random
    "dinov2": _dino("Dinov2Model"),
    "dinov2_with_registers": _dino("Dinov2WithRegistersModel"),
    "dinov3_vit": _dino("DINOv3ViTModel"),
}


def family_of(config: Any) -> Family:
    """The family of a vision tower.

    Args:
        config: Of the tower.

    Raises:
        ValueError: If it is unknown.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"no vision encoder of type {config.model_type!r} is known; known are {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def prefix_tokens(config: Any) -> int:
    """How many tokens of a vision tower come before the patches: CLS and registers.

    Args:
        config: Of the tower.

    Raises:
        ValueError: If the family is unknown.
    """
    return int(family_of(config).cls_token) + getattr(config, "num_register_tokens", 0)
