"""Families of vision encoders that are known: CLIP, SigLIP, DINO 1 to 3, and other plain ViT."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """The differences between families."""

    model: str  # class of transformers to load
    cls_token: bool  # whether the first token is a CLS token
    pooled: Callable[[Any], torch.Tensor]  # picks the image embedding from the model's output
    pool: Callable[[Any, torch.Tensor], torch.Tensor]  # makes it of the tokens that leave the last block
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the class
    head: str | None = None  # the module that makes the embedding; some checkpoints come without it
    bare: str = ""  # class of transformers to load without the head
    bare_config: Mapping[str, Any] = field(default_factory=dict)  # settings of the tower's config then

    def are_of_head(self, weights: Sequence[str]) -> bool:
        """Whether these are names of weights of the head alone."""
        return all(self.head in name.split(".") for name in weights)

    def has_head(self, model: Any) -> bool:
        """Whether a model of the family makes embeddings."""
        return self.head is None or any(self.head in name.split(".") for name, _ in model.named_modules())


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
    """A family whose pooled output is its normed CLS token."""
    return Family(model, True, lambda output: output.last_hidden_state[:, 0], _pool_dino, options)


_CLIP = Family(
    "CLIPVisionModelWithProjection",
    True,
    attrgetter("image_embeds"),
    pool_clip,
    head="visual_projection",
    bare="CLIPVisionModel",
)
_SIGLIP = Family(
    "SiglipVisionModel",
    False,
    attrgetter("pooler_output"),
    _pool_siglip,
    head="head",
    bare="SiglipVisionModel",
    bare_config={"vision_use_head": False},
)
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


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a vision tower, by its config.

    Raises:
        ValueError: If it is unknown.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"no vision encoder of type {config.model_type!r} is known; known are {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def tower_config(config: Any) -> Any:
    """The config of a vision tower with its projection, if any.

    Args:
        config: Config of the tower or of a whole model. Only that of the whole model says how wide its projections are;
            the tower's may say something else (openai's agree by chance, bigG's does not).
    """
    tower = getattr(config, "vision_config", config)
    if tower is not config and hasattr(config, "projection_dim"):
        tower.projection_dim = config.projection_dim
    return tower


def prefix_tokens(config: PreTrainedConfig) -> int:
    """Number of tokens of a vision tower, by its config, that come before the patches: CLS and registers.

    Raises:
        ValueError: If the family is unknown.
    """
    return int(family_of(config).cls_token) + getattr(config, "num_register_tokens", 0)
