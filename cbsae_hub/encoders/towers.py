"""Places of towers in models: vision towers, text encoders, and the language model and the projector of a LLaVA."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from cbsae_hub.models import checks


@dataclass(frozen=True)
class _Kind:
    """The way in which models of transformers and diffusers keep one kind of tower."""

    what: str  # the tower's blocks in words, for errors
    inner: tuple[str, ...]  # names under which it is kept
    blocks: tuple[str, ...]  # names under which it keeps its blocks; none if it is one block itself
    is_one: Callable[[Any], bool]  # tells it from other towers and from what holds it


def _reads_tokens(module: Any) -> bool:
    return isinstance(getattr(getattr(module, "embeddings", None), "token_embedding", None), nn.Module)


def _reads_pictures(module: Any) -> bool:
    return isinstance(getattr(module, "embeddings", None), nn.Module) and not _reads_tokens(module)


# Of all transformers 5: ViT's blocks were "encoder.layer", now "layers"; DINOv3's were "layer", now "model.layer".
KINDS = {
    "vision": _Kind(
        "vision blocks",
        ("image_encoder", "vision_tower", "vision_model", "model"),
        ("encoder.layers", "encoder.layer", "layers", "layer", "model.layer"),
        _reads_pictures,
    ),
    "text": _Kind("blocks of a text encoder", ("text_encoder", "text_model"), ("encoder.layers",), _reads_tokens),
    "language": _Kind(
        "blocks of a language model",
        ("language_model", "model"),
        ("layers",),
        lambda module: isinstance(getattr(module, "embed_tokens", None), nn.Module),
    ),
    "projector": _Kind(
        "projector",
        ("multi_modal_projector", "model"),
        (),
        lambda module: isinstance(getattr(module, "linear_1", None), nn.Module),
    ),
}
"""Kinds of towers, by name."""


def find_tower(model: Any, tower: str = "vision") -> tuple[nn.Module, nn.ModuleList, str]:
    """A tower in a model or pipeline, its blocks, and their place.

    Args:
        model: A model of transformers (CLIPModel, LLaVA, DINOv2, ...) or a pipeline of diffusers, or the tower alone.
        tower: "vision"; "text", the text encoder of a CLIP, a SigLIP or a pipeline (the first, if it has several);
            "language", the language model of a LLaVA; or "projector", a LLaVA's, which is one block.

    Raises:
        ValueError: If there is no such tower; names the class and the places that were searched.
    """
    kind = KINDS[checks.choice("tower", tower, KINDS)]
    module, path = model, type(model).__name__
    for _ in range(4):
        if kind.is_one(module):
            if not kind.blocks:
                return module, nn.ModuleList([module]), path
            for name in kind.blocks:
                try:
                    blocks = module.get_submodule(name)
                except AttributeError:
                    continue
                if isinstance(blocks, nn.ModuleList):
                    return module, blocks, f"{path}.{name}"
        inner = next((name for name in kind.inner if isinstance(getattr(module, name, None), nn.Module)), None)
        if inner is None:
            break
        module, path = getattr(module, inner), f"{path}.{inner}"
    places = f"{' or '.join(kind.blocks)} in it and in its" if kind.blocks else "it and its"
    raise ValueError(f"no {kind.what} found in {path}: looked for {places} {', '.join(kind.inner)}")
