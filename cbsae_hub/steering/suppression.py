"""Suppression of features: what they put into the residual stream is taken out, and the SAE's error stays.

After "Steering CLIP's vision transformer with sparse autoencoders" (Joseph et al., 2025), section 7.1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from cbsae_hub.encoders.families import prefix_tokens
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics.latents import mean_over_tokens
from cbsae_hub.models import SAE
from cbsae_hub.steering.latents import SteerableSAE, read_latents, weight_dtype

Pool = Literal["mean", "max", "cls"]


@contextmanager
def suppress(encoder: VisionEncoder, sae: SteerableSAE, features: Sequence[int] | Tensor) -> Iterator[None]:
    """Sets features of an SAE to zero inside an encoder, as long as the ``with`` block lasts.

    The tokens that the SAE was trained on become ``x - sum_j z_j d_j``, over the features j with latents ``z_j`` and
    decoder rows ``d_j``: what the SAE does not explain is kept. Images on which none is active stay as they are.

    Args:
        encoder: The encoder that the SAE explains, at the SAE's layer.
        sae: SAE, concept bottleneck SAE, or another model with ``encode`` and ``decode``.
        features: Numbers of the features.

    Raises:
        ValueError: If the SAE is of another layer or width, a feature does not exist, or the SAE edits tokens that no
            later block reads.
    """
    span, mask = edited_tokens(encoder, sae), feature_mask(sae, features)

    def edit(v: Tensor) -> Tensor:
        edited = v.clone()
        edited[:, span] = ablate(v[:, span], sae, mask).to(v.dtype)
        return edited

    with encoder.site.edit(edit, allow_identity=True):
        yield


@torch.no_grad()
def ablate(v: Tensor, sae: SteerableSAE, mask: Tensor) -> Tensor:
    """Activations ``[..., d]`` without the part of the features that are marked in ``mask [neurons]`` bool."""
    x = v.to(weight_dtype(sae))
    return x - read_latents(sae, x).part(mask)


def feature_mask(sae: SteerableSAE, features: Sequence[int] | Tensor) -> Tensor:
    """Marks features among the neurons, ``[neurons]`` bool on the SAE's device.

    Raises:
        ValueError: If there are none, or one does not exist.
    """
    ids = torch.as_tensor(features, dtype=torch.long)
    if not (len(ids) and 0 <= ids.min() <= ids.max() < sae.d_latent):
        raise ValueError(f"features must be some of 0 to {sae.d_latent - 1}, got {ids.tolist()!s:.80}")
    mask = torch.zeros(sae.d_latent, dtype=torch.bool)
    mask[ids] = True
    return mask.to(next(sae.parameters()).device)


def edited_tokens(encoder: VisionEncoder, sae: SteerableSAE) -> slice:
    """The tokens at which an SAE edits an encoder: those that it was trained on.

    Raises:
        ValueError: If the SAE is of another layer or width, or no later block reads those tokens.
    """
    layer, tokens = getattr(sae, "layer", None), getattr(sae, "tokens", None)
    if layer not in (None, encoder.layer, encoder.layer - encoder.num_layers):
        raise ValueError(
            f"the SAE is of layer {layer}, the encoder is read at layer {encoder.layer}: load the encoder with the "
            "layer of the SAE"
        )
    if sae.d_in != encoder.d_in:
        raise ValueError(f"the SAE explains activations of width {sae.d_in}, the encoder's have width {encoder.d_in}")
    if tokens == "mean":
        raise ValueError("the SAE is of the mean over tokens, which is no place in the encoder: take one of tokens")
    if tokens == "patches" and encoder.layer == encoder.num_layers - 1 and encoder.family.cls_token:
        raise ValueError(
            "the SAE is of the last block's patches, of which the image embedding reads nothing: take an SAE of an "
            "earlier layer, or of all tokens"
        )
    prefix = prefix_tokens(encoder.model.config)
    return {"cls": slice(0, 1), "patches": slice(prefix, None)}.get(tokens or "all", slice(None))


@torch.no_grad()
def image_latents(sae: SteerableSAE, x: Tensor, pool: Pool = "mean") -> Tensor:
    """Image-level latents ``[images, neurons]``, sparse where that is faster.

    Args:
        sae: See :func:`suppress`.
        x: Activations of the SAE's tokens, ``[images, tokens, d]``.
        pool: Mean or maximum over these tokens, or that of the first one, CLS.
    """
    x = (x[:, :1] if pool == "cls" else x).to(weight_dtype(sae))
    if isinstance(sae, SAE) and pool != "max":
        return mean_over_tokens(*sae.encode_sparse(x), sae.d_sae)
    latents = sae.encode(x)
    return latents.amax(1) if pool == "max" else latents.mean(1)
