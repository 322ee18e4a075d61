"""Latents of which only the active ones are stored, and products that read only their decoder rows."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# Above this share of non-zero latents one dense product is taken to be faster than gathering rows. Measured
# break-even on one CPU core: 1/16 for a decoder of 65,536 x 1,024, later for smaller ones.
SPARSE_DENSITY = 1 / 32


class SparseLatents(NamedTuple):
    """The active latents of each token, strongest first, padded with value 0 and neuron 0.

    An entry is active exactly if its value is positive, so sums over entries need no mask.
    """

    values: Tensor
    """``[..., K]``, non-negative."""
    indices: Tensor
    """``[..., K]``, int64 neuron ids."""

    def to_dense(self, d_sae: int) -> Tensor:
        """Dense latents ``[..., d_sae]``."""
        dense = self.values.new_zeros(*self.values.shape[:-1], d_sae)
        return dense.scatter_add_(-1, self.indices, self.values)


def pack_active(latents: Tensor, max_active: int | None = None) -> SparseLatents:
    """Packs the positive entries of dense latents ``[n, d_sae]``, at most ``max_active`` per token."""
    tokens, neurons = (latents > 0).nonzero(as_tuple=True)
    counts = torch.bincount(tokens, minlength=len(latents))
    slots = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[tokens]
    shape = (len(latents), int(counts.max()) if len(counts) else 0)
    values, indices = latents.new_zeros(shape), neurons.new_zeros(shape)
    values[tokens, slots] = latents[tokens, neurons]
    indices[tokens, slots] = neurons
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return SparseLatents(values[:, :max_active], indices.gather(-1, order)[:, :max_active])


def gather_rows(latents: SparseLatents, matrix: Tensor) -> Tensor:
    """``latents.to_dense() @ matrix``, from the active rows only: ``[d_sae, d_in] -> [..., d_in]``."""
    *leading, width = latents.values.shape
    first = torch.arange(prod(leading), device=matrix.device) * width
    values = latents.values.flatten().to(matrix.dtype)
    product = embedding_bag(latents.indices.flatten(), matrix, first, mode="sum", per_sample_weights=values)
    return product.reshape(*leading, matrix.shape[-1])


def mostly_zero_product(latents: Tensor, matrix: Tensor) -> Tensor:
    """``latents @ matrix`` for signed latents ``[..., d_sae]``, by the faster way; not differentiable."""
    flat = latents.reshape(-1, latents.shape[-1])
    tokens, neurons = flat.nonzero(as_tuple=True)
    if len(tokens) > SPARSE_DENSITY * flat.numel():
        return latents @ matrix
    first = torch.searchsorted(tokens, torch.arange(len(flat), device=tokens.device))
    values = flat[tokens, neurons]
    product = embedding_bag(neurons, matrix, first, mode="sum", per_sample_weights=values)
    return product.reshape(*latents.shape[:-1], matrix.shape[-1])
