"""Latents of images, and reconstructions in which a few of them are changed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cbsae_hub.models import SAE, SparseLatents


class Latents(ABC):
    """Latents of one image's tokens."""

    @abstractmethod
    def columns(self, neurons: Sequence[int]) -> Tensor:
        """Latents of a few neurons, ``[tokens, neurons]``."""

    @abstractmethod
    def reconstruction(self) -> Tensor:
        """``decode`` of all latents, ``[tokens, d]``."""

    @abstractmethod
    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        """``decode`` of latents of which a few are replaced, in two parts ``[tokens, d]``.

        Args:
            neurons: Which are replaced.
            new: By what, ``[tokens, neurons]``.
            isolate: All others are zero.

        Returns:
            What is decoded without the change (isolated: of no latents at all), and what the change adds to it.
        """


class _Active(Latents):
    """Of an SAE: only the active latents are stored, and only the decoder rows that count are read."""

    def __init__(self, sae: SAE, active: SparseLatents):
        self._sae, self._active = sae, active

    def columns(self, neurons: Sequence[int]) -> Tensor:
        values, indices = self._active
        wanted = indices.new_tensor(neurons)
        return (values[..., None] * (indices[..., None] == wanted)).sum(-2)

    def reconstruction(self) -> Tensor:
        return self._sae.decode_sparse(*self._active)

    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        rows = self._sae.W_dec[self._active.indices.new_tensor(neurons)]
        if isolate:
            return self._sae.b_dec.expand(len(new), -1), new @ rows
        return self.reconstruction(), (new - self.columns(neurons)) @ rows


class _Dense(Latents):
    """Of any model with ``encode`` and ``decode``, whose decoder need not be linear."""

    def __init__(self, sae: Any, latents: Tensor):
        self._sae, self._latents = sae, latents

    def columns(self, neurons: Sequence[int]) -> Tensor:
        return self._latents[:, list(neurons)]

    def reconstruction(self) -> Tensor:
        return self._sae.decode(self._latents)

    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        before = self._latents.new_zeros(self._latents.shape) if isolate else self._latents
        after = before.clone()
        after[:, list(neurons)] = new
        base = self._sae.decode(before)
        return base, self._sae.decode(after) - base


def read_latents(sae: Any, v: Tensor, needed: bool) -> list[Latents]:
    """Latents of each image.

    Args:
        sae: An SAE, or any model with ``encode`` and ``decode``.
        v: ``[images, tokens, d]``.
        needed: Without, the encoder does not run and all latents are zero.
    """
    if isinstance(sae, SAE):
        nothing = SparseLatents(v.new_zeros(*v.shape[:2], 0).to(sae.W_dec.dtype), v.new_zeros(*v.shape[:2], 0).long())
        active = sae.encode_sparse(v) if needed else nothing
        return [_Active(sae, SparseLatents(*one)) for one in zip(*active)]
    latents = sae.encode(v) if needed else v.new_zeros(*v.shape[:2], neuron_count(sae)).to(weight_dtype(sae))
    return [_Dense(sae, one) for one in latents]


def neuron_count(sae: Any) -> int:
    """Neurons of an SAE, or SAE and concept neurons of a concept bottleneck SAE."""
    return sae.d_latent if hasattr(sae, "d_latent") else sae.d_sae


def weight_dtype(sae: Any) -> Any:
    """The dtype in which a model computes."""
    return next(sae.parameters()).dtype
