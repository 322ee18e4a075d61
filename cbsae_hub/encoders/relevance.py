"""Relevancy maps: the patches to which a latent owes its value, whichever token it is a latent of.

Source: Chefer et al., Generic attention-model explainability for interpreting bi-modal and encoder-decoder
transformers, 2021 (equations 5 and 6), of an SAE's latents as in Olson et al., 2025 (figure 4).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.encoders.site import ResidualSite
from cbsae_hub.models import CBSAE, SAE

Weigh = Callable[[Tensor], Tensor]
"""Makes ``[images, all tokens]`` of ``[images, all tokens, d_in]``: how much of the latent is of each token."""


def attentive(model: Any, **options: Any) -> Any:
    """Builds a model that shares another one's weights and computes its attention so that gradients reach it.

    The fast kernels do not keep the attention. The other model stays as it is: somebody else may be using it.

    Args:
        model: A vision model of transformers.
        **options: Arguments of its class besides the config.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        twin = type(model)(config, **options)
    twin.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():  # those that are not saved, such as numbers of positions
        owner, _, own_name = name.rpartition(".")
        setattr(twin.get_submodule(owner), own_name, buffer)
    return twin.eval().requires_grad_(False)


def relevancy(model: Any, layer: int, pixels: Tensor, weigh: Weigh) -> Tensor:
    """Relevance of each token of the picture to a latent, ``[images, all tokens]`` float32; 0 where it is not active.

    From block to block ``R <- R + mean over heads of (gradient * attention)+ @ R``, from the unit matrix on. The
    gradient is that of the latent, summed over its tokens. The rows of the tokens are averaged, each by its share of
    the latent; a latent of the CLS token has one row.

    Args:
        model: What :func:`attentive` has made.
        layer: Block whose output the latent is of, from 0.
        pixels: Preprocessed images, ``[images, 3, h, w]``.
        weigh: The latent of each token, 0 or positive, differentiable.
    """
    weighed: list[Tensor] = []

    def keep(v: Tensor) -> Tensor:
        weighed.append(weigh(v))
        return v

    with torch.enable_grad(), ResidualSite.find(model, layer).edit(keep, allow_identity=True):
        output = model(pixels.detach().clone().requires_grad_(), output_attentions=True)
    attentions, weights = output.attentions[: layer + 1], weighed[0]
    gradients = torch.autograd.grad(weights.sum(), attentions)
    tokens = attentions[0].shape[-1]
    relevance = torch.eye(tokens, device=pixels.device).expand(len(pixels), tokens, tokens)
    for attention, gradient in zip(attentions, gradients):
        relevance = relevance + (gradient * attention.detach()).float().clamp_min(0).mean(1) @ relevance
    weights = weights.detach().float()
    shares = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (shares[:, None] @ relevance)[:, 0]


def share_out(sae: SAE | CBSAE, neuron: int, span: slice | None) -> Weigh:
    """The latent of one neuron at each token; a signed one counts where it is positive.

    Args:
        sae: The model.
        neuron: The neuron.
        span: The tokens that the model reads one by one; None if it reads their mean, which is of all alike.
    """

    def weigh(v: Tensor) -> Tensor:
        read = v.mean(1, keepdim=True) if span is None else v[:, span]
        latent = sae.encode(read.float().to(sae.b_dec.device))[..., neuron].clamp_min(0).to(v.device)
        if span is None:
            return latent.expand(-1, v.shape[1]) / v.shape[1]
        before = span.start or 0
        return F.pad(latent, (before, v.shape[1] - before - latent.shape[1]))

    return weigh


def at_resolution(maps: Tensor, height: int, width: int) -> Tensor:
    """Stretches maps of patches over pictures, without steps: ``[images, rows, columns] -> [images, height, width]``.

    Args:
        maps: Maps, of the part of the picture that the encoder sees.
        height: Pixels of that part.
        width: Likewise.
    """
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
