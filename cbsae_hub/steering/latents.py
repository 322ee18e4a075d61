"""Latents of images, and reconstructions in which a few of them are changed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from cbsae_hub.models import CBSAE, SAE, SparseLatents
from cbsae_hub.models.sparse_latents import gather_rows


class SteerableSAE(Protocol):
    """The methods that steering calls: those of an SAE, a CBSAE, :class:`RawNeurons`, or somebody else's module.

    Steering also reads its ``layer`` (the block that it explains), ``neuron_names`` and ``sae_neuron_ids``, if any.
    """

    @property
    def d_in(self) -> int:
        """Width of the activations."""

    @property
    def d_latent(self) -> int:
        """Number of its neurons."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents of activations, ``[..., d_in] -> [..., d_latent]``."""

    def decode(self, latents: Tensor) -> Tensor:
        """Activations of latents, ``[..., d_latent] -> [..., d_in]``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights; this and the next two as a module has them."""

    def to(self, device: torch.device) -> "SteerableSAE":
        """Itself, on a device."""

    def eval(self) -> "SteerableSAE":
        """Itself, for inference."""


class Latents(ABC):
    """Latents of tokens, ``[...]`` of any form; ``latents[image]`` are those of one image."""

    @abstractmethod
    def __getitem__(self, image: int) -> "Latents":
        """Latents of a part."""

    @abstractmethod
    def columns(self, neurons: Sequence[int]) -> Tensor:
        """Latents of a few neurons, ``[..., neurons]``."""

    @abstractmethod
    def reconstruction(self) -> Tensor:
        """``decode`` of all latents, ``[..., d]``."""

    @abstractmethod
    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        """``decode`` of latents of which a few become ``new [..., neurons]``; isolated, all others are zero.

        Returns:
            In two parts ``[..., d]``: the activations without the change (isolated: those of no latents at all), and
            the change's contribution.
        """

    @abstractmethod
    def part(self, mask: Tensor) -> Tensor:
        """The loss of ``decode`` if the neurons that ``mask [neurons]`` bool marks become zero, ``[..., d]``."""

    @abstractmethod
    def pushes(self, neurons: Sequence[int], values: Tensor, isolate: bool) -> Tensor:
        """The contribution of one edited neuron alone, for each of a few with new latents ``values [neurons]``.

        Returns:
            ``[neurons, ..., d]``.
        """


class _Active(Latents):
    """Latents of an SAE: it stores the active ones only, and reads the decoder rows that count only."""

    def __init__(self, sae: SAE, active: SparseLatents, like: Tensor):
        self._sae, self._active, self._like = sae, active, like

    def __getitem__(self, image: int) -> "_Active":
        values, indices = self._active
        return _Active(self._sae, SparseLatents(values[image], indices[image]), self._like[image])

    def columns(self, neurons: Sequence[int]) -> Tensor:
        values, indices = self._active
        return (values[..., None] * (indices[..., None] == indices.new_tensor(neurons))).sum(-2)

    def reconstruction(self) -> Tensor:
        return self._sae.decode_sparse(*self._active, self._like)

    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        rows, unit = decoder_rows(self._sae, neurons), self._sae.unit(self._like)
        if isolate:
            return self._sae.origin(self._like).expand(*new.shape[:-1], -1), new @ rows * unit
        return self.reconstruction(), (new - self.columns(neurons)) @ rows * unit

    def part(self, mask: Tensor) -> Tensor:
        values, indices = self._active
        marked = SparseLatents(values * mask[indices], indices)
        return gather_rows(marked, self._sae.W_dec) * self._sae.unit(self._like)

    def pushes(self, neurons: Sequence[int], values: Tensor, isolate: bool) -> Tensor:
        changes = values - self.columns(neurons) * (not isolate)
        return _along(decoder_rows(self._sae, neurons), changes) * self._sae.unit(self._like)


class _Bottleneck(Latents):
    """Latents of a CBSAE: the active ones of its SAE, and those of all concepts, of which the decoder selects some."""

    def __init__(self, cb: CBSAE, active: Latents, concepts: Tensor, like: Tensor):
        self._cb, self._active, self._concepts, self._like = cb, active, concepts, like

    def __getitem__(self, image: int) -> "_Bottleneck":
        return _Bottleneck(self._cb, self._active[image], self._concepts[image], self._like[image])

    def columns(self, neurons: Sequence[int]) -> Tensor:
        of_sae, concepts, in_sae = self._parted(neurons)
        columns = self._concepts.new_empty(*self._concepts.shape[:-1], len(neurons))
        columns[..., in_sae] = self._active.columns(of_sae)
        columns[..., ~in_sae] = self._concepts[..., concepts]
        return columns

    def reconstruction(self) -> Tensor:
        return self._active.reconstruction() + self._cb.decode_concepts(self._concepts, self._like)

    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        of_sae, concepts, in_sae = self._parted(neurons)
        base, push = self._active.decode_edited(of_sae, new[..., in_sae], isolate)
        before = torch.zeros_like(self._concepts) if isolate else self._concepts
        plain = self._cb.decode_concepts(before, self._like)
        return base + plain, push + (self._decode(before, concepts, new[..., ~in_sae]) - plain)

    def part(self, mask: Tensor) -> Tensor:
        plain = self._cb.decode_concepts(self._concepts, self._like)
        others = self._concepts.masked_fill(mask[self._cb.d_sae :], 0.0)
        return self._active.part(mask[: self._cb.d_sae]) + plain - self._cb.decode_concepts(others, self._like)

    def pushes(self, neurons: Sequence[int], values: Tensor, isolate: bool) -> Tensor:
        of_sae, concepts, in_sae = self._parted(neurons)
        before = torch.zeros_like(self._concepts) if isolate else self._concepts
        plain = self._cb.decode_concepts(before, self._like)
        pushes = plain.new_empty(len(neurons), *plain.shape)
        pushes[in_sae] = self._active.pushes(of_sae, values[in_sae], isolate)
        for place, concept in zip((~in_sae).nonzero()[:, 0], concepts):
            pushes[place] = self._decode(before, concept, values[place]) - plain
        return pushes

    def _parted(self, neurons: Sequence[int]) -> tuple[list[int], Tensor, Tensor]:
        """Neurons of the SAE, numbers of concepts, and which of the neurons are of the SAE."""
        ids = torch.as_tensor(neurons, dtype=torch.long)
        in_sae = ids < self._cb.d_sae
        return ids[in_sae].tolist(), ids[~in_sae] - self._cb.d_sae, in_sae

    def _decode(self, before: Tensor, concepts: Tensor, new: Tensor) -> Tensor:
        """The bottleneck's part of a reconstruction if some concepts are set before it selects."""
        after = before.clone()
        after[..., concepts] = new
        return self._cb.decode_concepts(after, self._like)


class _Dense(Latents):
    """Latents of any model with ``encode`` and ``decode``; its decoder need not be linear."""

    def __init__(self, sae: SteerableSAE, latents: Tensor):
        self._sae, self._latents = sae, latents

    def __getitem__(self, image: int) -> "_Dense":
        return _Dense(self._sae, self._latents[image])

    def columns(self, neurons: Sequence[int]) -> Tensor:
        return self._latents[..., list(neurons)]

    def reconstruction(self) -> Tensor:
        return self._sae.decode(self._latents)

    def decode_edited(self, neurons: Sequence[int], new: Tensor, isolate: bool) -> tuple[Tensor, Tensor]:
        before = torch.zeros_like(self._latents) if isolate else self._latents
        after = before.clone()
        after[..., list(neurons)] = new
        base = self._sae.decode(before)
        return base, self._sae.decode(after) - base

    def part(self, mask: Tensor) -> Tensor:
        return self._sae.decode(self._latents) - self._sae.decode(self._latents.masked_fill(mask, 0.0))

    def pushes(self, neurons: Sequence[int], values: Tensor, isolate: bool) -> Tensor:
        shape = (*self._latents.shape[:-1], 1)
        each = zip(neurons, values)
        return torch.stack([self.decode_edited([n], value.expand(shape), isolate)[1] for n, value in each])


class _Coordinates(_Dense):
    """Latents of :class:`RawNeurons`, of which one changes without the others."""

    def pushes(self, neurons: Sequence[int], values: Tensor, isolate: bool) -> Tensor:
        return _along(decoder_rows(self._sae, neurons), values - self.columns(neurons) * (not isolate))


def _along(rows: Tensor, changes: Tensor) -> Tensor:
    """Steps along decoder rows ``[neurons, d]`` as long as ``changes [..., neurons]``: ``[neurons, ..., d]``."""
    lengths = changes.movedim(-1, 0)
    return lengths[..., None] * rows.view(len(rows), *[1] * (lengths.ndim - 1), rows.shape[-1])


def read_latents(sae: SteerableSAE, v: Tensor, needed: bool = True) -> Latents:
    """Latents of activations.

    Args:
        sae: An SAE, or any model with ``encode`` and ``decode``.
        v: ``[..., d]``.
        needed: Without, the encoder does not run and all latents are zero.
    """
    if isinstance(sae, CBSAE):
        nothing = v.new_zeros(*v.shape[:-1], len(sae.concepts), dtype=weight_dtype(sae))
        concepts = sae.concept_activations(v) if needed else nothing
        return _Bottleneck(sae, read_latents(sae.sae, v, needed), concepts, v)
    if isinstance(sae, SAE):
        if needed:
            return _Active(sae, sae.encode_sparse(v), v)
        nothing = v.new_zeros(*v.shape[:-1], 0)
        return _Active(sae, SparseLatents(nothing.to(weight_dtype(sae)), nothing.long()), v)
    latents = sae.encode(v) if needed else v.new_zeros(*v.shape[:-1], sae.d_latent, dtype=weight_dtype(sae))
    return (_Coordinates if isinstance(sae, RawNeurons) else _Dense)(sae, latents)


def decoder_rows(sae: SteerableSAE, neurons: Sequence[int]) -> Tensor:
    """The reconstruction by a latent of 1 alone, without the bias, ``[neurons, d]``, in the units of the weights."""
    ids = torch.as_tensor(neurons, dtype=torch.long, device=next(sae.parameters()).device)
    if isinstance(sae, (SAE, RawNeurons)):
        return sae.W_dec[ids]
    if isinstance(sae, CBSAE):
        return sae.decoder_rows(ids)
    alone = torch.zeros(len(ids), sae.d_latent, dtype=weight_dtype(sae), device=ids.device)
    return sae.decode(alone.scatter(1, ids[:, None], 1.0)) - sae.decode(alone)


def weight_dtype(sae: SteerableSAE) -> torch.dtype:
    """The dtype in which a model computes."""
    return next(sae.parameters()).dtype


class RawNeurons(nn.Module):
    """The dimensions of the residual stream themselves, in the place of an SAE, for comparison.

    Args:
        d_in: Width of the stream.
        layer: The block that puts the stream out.
        seed: Seed of a random rotation of the dimensions, for the control "as many random orthogonal directions".
            None rotates nothing.
        count: Number of random directions; default ``d_in``. More come from several rotations: then ``decode`` does not
            undo ``encode``, and only edits that keep the error make sense.

    Raises:
        ValueError: If directions are counted that are not random.
    """

    def __init__(self, d_in: int, layer: int, seed: int | None = None, count: int | None = None):
        super().__init__()
        if seed is None and count is not None:
            raise ValueError("a count of directions needs a seed: there are d_in raw neurons, no more and no fewer")
        self.d_in, self.d_latent = d_in, count or d_in
        self.layer = layer
        rows = torch.eye(d_in)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            rows = torch.cat([_rotation(d_in, generator) for _ in range(-(-self.d_latent // d_in))])[: self.d_latent]
        self.W_dec = nn.Parameter(rows, requires_grad=False)

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates of ``x`` along the directions, which are the latents."""
        return x.to(self.W_dec.dtype) @ self.W_dec.T

    def decode(self, latents: Tensor) -> Tensor:
        """The activations that have these coordinates."""
        return latents @ self.W_dec


def _rotation(d: int, generator: torch.Generator) -> Tensor:
    """A random rotation, each as likely as any other, ``[d, d]``."""
    rows, upper = torch.linalg.qr(torch.randn(d, d, generator=generator))
    return rows * upper.diagonal().sign()  # without the signs, not all would be equally likely
