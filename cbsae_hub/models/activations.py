"""The activation functions of sparse autoencoders: from hidden values to latents, in use and in training.

Each is a pure function of hidden values, decoder norms and :class:`Settings`. It holds nothing and knows no SAE: the
parameters (`b_enc`, `threshold`, ...) belong to the SAE, under the names that SAELens uses.

``hidden`` below is the one dense product of an SAE, ``(x - b_dec) @ W_enc + b_enc`` (no bias for ``gated``).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cbsae_hub.models.sparse_latents import SparseLatents, pack_active
from cbsae_hub.models.straight_through import jump_gate, step

PER_NEURON = ("b_enc", "b_gate", "b_mag", "r_mag")  # parameters, of which each activation function has some
IN_INPUT_UNITS = ("b_enc", "threshold", "b_gate", "b_mag")
"""Tensors of an SAE that grow with its inputs, besides ``b_dec``."""


@dataclass(frozen=True)
class Settings:
    """The values that an activation function reads besides hidden values."""

    k: int  # active latents per token (topk: each token; batch_topk: on average over a batch)
    bandwidth: float  # width of the window in which JumpReLU's thresholds get a gradient
    threshold: Tensor | None = None  # a number or [d_sae]; None where there is none, or none yet
    b_gate: Tensor | None = None  # bias of the gate, [d_sae]; this and the next two are those of gated
    b_mag: Tensor | None = None  # bias of the magnitudes
    r_mag: Tensor | None = None  # logarithm of the magnitudes' scale


class Trained(NamedTuple):
    """Latents of a training step, and what trains their sparsity; all differentiable."""

    latents: Tensor
    """``[n, d_sae]``, dense."""
    penalty: Tensor
    """Scalar, mean over tokens, to be multiplied by the sparsity coefficient: L1 weighted by decoder norms
    (relu, gated), L0 (jumprelu), 0 (topk, batch_topk)."""
    gate: Tensor | None = None
    """``[n, d_sae]`` of gated, whose reconstruction is an auxiliary loss."""


class TrainingLatents(NamedTuple):
    """Result of ``sae.train_latents(x)``; all differentiable."""

    latents: Tensor
    """``[n, d_sae]``, dense."""
    penalty: Tensor
    """Scalar, to be multiplied by the sparsity coefficient; see :class:`Trained`."""
    auxiliary: Tensor
    """Scalar loss to be added as it is: gated's reconstruction from the gate, else 0."""


class Activation(ABC):
    """Base of the activation functions."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Those of :data:`PER_NEURON` that it needs."""
    selects_by_rank: ClassVar[bool] = False
    """Whether training keeps the largest pre-activations (:meth:`select`), without any penalty."""

    def preactivations(self, hidden: Tensor, settings: Settings) -> Tensor:
        """Magnitudes before selection, ``relu(hidden)``."""
        return hidden.relu()

    @abstractmethod
    def infer(self, hidden: Tensor, settings: Settings) -> Tensor:
        """Dense latents by the inference rule, ``[..., d_sae] -> [..., d_sae]``.

        Without gradients ``hidden`` may be overwritten: a second tensor of its size would take as long to
        allocate as a narrow encoder's product takes to compute.
        """

    def infer_sparse(self, hidden: Tensor, settings: Settings, max_active: int | None) -> SparseLatents:
        """The same latents, active ones only; at most ``max_active`` (the strongest) per token."""
        return pack_active(self.infer(hidden, settings), max_active)

    @abstractmethod
    def train(self, hidden: Tensor, norms: Tensor, settings: Settings) -> Trained:
        """Latents and penalty of a training step from ``hidden [n, d_sae]``, by plain dense autograd.

        ``norms [d_sae]`` are the lengths of decoder rows. With them in the penalty, scaling cannot evade it.
        """

    def select(self, preactivations: Tensor, settings: Settings, count: int | None = None) -> Tensor:
        """Positions of the pre-activations ``[n, d_sae]`` that training keeps (topk and batch_topk only).

        batch_topk keeps ``count`` of them instead of ``k * n``: the share of one of several processes. topk ignores it.

        Returns:
            Flat positions ``token * d_sae + neuron``, int64, of positive pre-activations only.
        """
        raise NotImplementedError(f"{self.name} has no selection by rank; use train_latents")


class ReLU(Activation):
    """``relu(hidden)``, trained with an L1 penalty (Bricken et al., "Towards Monosemanticity", 2023)."""

    name = "relu"

    def infer(self, hidden, settings):
        return hidden.relu()

    def train(self, hidden, norms, settings):
        latents = hidden.relu()
        return Trained(latents, (latents @ norms).mean())


class _ByRank(Activation):
    """Keeps the largest pre-activations."""

    selects_by_rank = True

    def train(self, hidden, norms, settings):
        preactivations = hidden.relu()
        mask = torch.zeros_like(preactivations).flatten()
        mask[self.select(preactivations.detach(), settings)] = 1
        return Trained(preactivations * mask.view_as(preactivations), preactivations.new_zeros(()))


class TopK(_ByRank):
    """The k largest of each token (Gao et al., "Scaling and evaluating sparse autoencoders", 2024, eq. 3)."""

    name = "topk"

    def infer(self, hidden, settings):
        return _keep_top_k(hidden, settings.k)

    def infer_sparse(self, hidden, settings, max_active):
        k = settings.k if max_active is None else min(settings.k, max_active)
        values, indices = _top_k(hidden.relu(), k)
        return SparseLatents(values, indices.masked_fill(values <= 0, 0))

    def select(self, preactivations, settings, count=None):
        values, indices = _top_k(preactivations, settings.k)
        first = torch.arange(len(preactivations), device=indices.device) * preactivations.shape[-1]
        return (indices + first[:, None])[values > 0]


class BatchTopK(_ByRank):
    """The ``k * n`` largest of a batch of n tokens; at inference those above one threshold.

    Bussmann et al., "BatchTopK sparse autoencoders", 2024. The inference rule is the gate
    ``pre * (pre > threshold)``, not a shift. With ``group_sizes`` in the SAE this is the Matryoshka SAE
    (Bussmann et al., 2025): selection is once over all groups.
    """

    name = "batch_topk"

    def infer(self, hidden, settings):
        """No threshold yet means the k largest of each token."""
        if settings.threshold is None:
            return _keep_top_k(hidden, settings.k)
        return _gate(hidden, settings.threshold)

    def select(self, preactivations, settings, count=None):
        flat = preactivations.flatten()
        count = settings.k * len(preactivations) if count is None else count
        values, positions = flat.topk(min(count, len(flat)), sorted=False)
        return positions[values > 0]


class JumpReLU(Activation):
    """``pre * (pre > threshold)`` with a learned threshold per neuron.

    Rajamanoharan et al., "Jumping ahead", 2024. The gradients of the thresholds, of the latents (eq. 11) and
    of L0 (eq. 12), are estimated with a rectangular kernel of width ``bandwidth``.
    """

    name = "jumprelu"

    def infer(self, hidden, settings):
        """A threshold that training pushed below zero acts as zero."""
        return _gate(hidden, settings.threshold.clamp_min(0))

    def train(self, hidden, norms, settings):
        latents = jump_gate(hidden, settings.threshold, settings.bandwidth)
        return Trained(latents, step(hidden, settings.threshold, settings.bandwidth).sum(-1).mean())


class Gated(Activation):
    """A gate decides which latents are on, magnitudes share its directions. As in SAELens there is no ``b_enc``.

    Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders", 2024, eq. 6 to 8.
    """

    name = "gated"
    parameters = ("b_gate", "b_mag", "r_mag")

    def preactivations(self, hidden, settings):
        return (hidden * settings.r_mag.exp() + settings.b_mag).relu()

    def infer(self, hidden, settings):
        return torch.where(hidden + settings.b_gate > 0, self.preactivations(hidden, settings), 0.0)

    def train(self, hidden, norms, settings):
        """The penalty and the loss of its reconstruction train the gate."""
        gate = (hidden + settings.b_gate).relu()
        return Trained(self.infer(hidden, settings), (gate @ norms).mean(), gate)


ACTIVATIONS: dict[str, Activation] = {each.name: each for each in (ReLU(), TopK(), BatchTopK(), JumpReLU(), Gated())}


def _gate(hidden: Tensor, threshold: Tensor) -> Tensor:
    if threshold.ndim == 0:  # the fused form, one pass instead of two
        return nn.functional.threshold(hidden, threshold.item(), 0.0, inplace=not hidden.requires_grad)
    return torch.where(hidden > threshold, hidden, 0.0)


def _top_k(preactivations: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return preactivations.topk(min(k, preactivations.shape[-1]), dim=-1)


def _keep_top_k(hidden: Tensor, k: int) -> Tensor:
    values, indices = _top_k(hidden.relu(), k)
    return torch.zeros_like(hidden).scatter(-1, indices, values)
