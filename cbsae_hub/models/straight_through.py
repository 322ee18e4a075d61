"""Gradients for JumpReLU's thresholds, estimated with a rectangular kernel.

Rajamanoharan et al., "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders",
2024, eq. 11 and 12: a threshold's gradient comes from the pre-activations within ``bandwidth / 2`` of it.
"""

import torch
from torch import Tensor


def jump_gate(hidden: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """``hidden [..., d_sae]`` where it is above ``threshold [d_sae]`` and above 0, else 0."""
    return _JumpGate.apply(hidden, threshold, bandwidth)


def step(hidden: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where ``hidden`` is above ``threshold``, else 0; only the threshold gets a gradient."""
    return _Step.apply(hidden, threshold, bandwidth)


def _in_window(hidden: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (hidden - threshold).abs() < bandwidth / 2


class _JumpGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, threshold, bandwidth):
        ctx.save_for_backward(hidden, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(hidden > threshold.clamp_min(0), hidden, 0.0)

    @staticmethod
    def backward(ctx, grad):
        hidden, threshold = ctx.saved_tensors
        window = _in_window(hidden, threshold, ctx.bandwidth)
        grad_threshold = -(threshold / ctx.bandwidth) * (grad * window).flatten(0, -2).sum(0)
        return torch.where(hidden > threshold.clamp_min(0), grad, 0.0), grad_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, threshold, bandwidth):
        ctx.save_for_backward(hidden, threshold)
        ctx.bandwidth = bandwidth
        return (hidden > threshold).to(hidden.dtype)

    @staticmethod
    def backward(ctx, grad):
        hidden, threshold = ctx.saved_tensors
        window = _in_window(hidden, threshold, ctx.bandwidth)
        return None, -(grad * window).flatten(0, -2).sum(0) / ctx.bandwidth, None
