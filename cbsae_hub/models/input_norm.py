"""Normalisation of each token before an SAE and its inverse after, which cannot be folded into weights.

SAEs of SAELens (``normalize_activations``) and ViT-Prisma are trained on such tokens. Both kinds equal theirs to the
digit: the deviation divides by ``d - 1``, and the epsilon counts on the way in, but not on the way out.
"""

import torch
from torch import Tensor

KINDS = ("layer_norm", "constant_norm")
EPSILON = 1e-5


def normalize(kind: str, x: Tensor) -> Tensor:
    """Tokens ``[..., d]`` as the SAE sees them.

    "layer_norm": ``(x - mean) / (std + 1e-5)``; "constant_norm": ``x sqrt(d) / |x|``.
    """
    if kind == "layer_norm":
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.std(-1, keepdim=True) + EPSILON)
    return x / scale(kind, x)


def scale(kind: str, like: Tensor) -> Tensor:
    """Length of a step of 1 in the SAE's units, in units of the tokens ``like [..., d]``: ``[..., 1]``."""
    tiny = torch.finfo(like.dtype).tiny
    if kind == "layer_norm":
        return (like - like.mean(-1, keepdim=True)).std(-1, keepdim=True).clamp_min(tiny)
    return like.norm(dim=-1, keepdim=True).clamp_min(tiny) / like.shape[-1] ** 0.5


def denormalize(kind: str, y: Tensor, like: Tensor) -> Tensor:
    """Output of the SAE, ``[..., d]``, with mean and scale of the tokens ``like``."""
    scaled = y * scale(kind, like)
    return scaled + like.mean(-1, keepdim=True) if kind == "layer_norm" else scaled
