"""The activation functions of sparse autoencoders: from pre-activations to latents, in use and in training.

One class per activation function, all with the interface of :class:`Sparsity`. They hold settings only; the
parameters (`b_enc`, `threshold`, ...) belong to the SAE, under the names that SAELens uses, and every method
takes the SAE that it works for.

``hidden`` below is the one dense product of an SAE, ``(x - b_dec) @ W_enc + b_enc`` (no bias for ``gated``).
"""

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cbsae_hub.models.sparse_latents import SparseLatents, pack_active
from cbsae_hub.models.straight_through import jump_gate, step

if TYPE_CHECKING:
    from cbsae_hub.models.sae import SAE

logger = logging.getLogger(__name__)

UNSET = -1.0  # value of a threshold that was neither tracked nor calibrated yet


class TrainingLatents(NamedTuple):
    """What an activation function contributes to a training step; all differentiable."""

    latents: Tensor
    """``[n, d_sae]``, dense."""
    penalty: Tensor
    """Scalar, mean over tokens, to be multiplied by the sparsity coefficient: L1 weighted by decoder norms
    (relu, gated), L0 (jumprelu), 0 (topk, batch_topk)."""
    auxiliary: Tensor
    """Scalar loss to be added as it is: gated's reconstruction from the gate, else 0."""


class Sparsity(ABC):
    """Base of the activation functions.

    Args:
        k: Active latents per token (topk: each token; batch_topk: on average over a batch).
        bandwidth: Width of the window in which JumpReLU's thresholds get a gradient.
    """

    name: ClassVar[str]
    selects_by_rank: ClassVar[bool] = False
    """Whether training keeps the largest pre-activations (:meth:`train_select`), without any penalty."""

    def __init__(self, k: int, bandwidth: float):
        self.k = k
        self.bandwidth = bandwidth

    def create_parameters(self, sae: "SAE") -> None:
        """Registers on the SAE what this activation function needs beside the two matrices and ``b_dec``."""
        sae.b_enc = nn.Parameter(torch.zeros(sae.d_sae))
        sae.register_buffer("threshold", None)

    def preactivations(self, sae: "SAE", hidden: Tensor) -> Tensor:
        """Magnitudes before selection, ``relu(hidden)``."""
        return hidden.relu()

    @abstractmethod
    def infer(self, sae: "SAE", hidden: Tensor) -> Tensor:
        """Dense latents by the inference rule, ``[..., d_sae] -> [..., d_sae]``.

        Without gradients ``hidden`` may be overwritten: a second tensor of its size would take as long to
        allocate as a narrow encoder's product takes to compute.
        """

    def infer_sparse(self, sae: "SAE", hidden: Tensor, max_active: int | None) -> SparseLatents:
        """The same latents, active ones only; at most ``max_active`` (the strongest) per token."""
        return pack_active(self.infer(sae, hidden), max_active)

    @abstractmethod
    def train_latents(self, sae: "SAE", x: Tensor) -> TrainingLatents:
        """Latents and loss terms of a training step on ``x [n, d_in]``, by plain dense autograd."""

    def train_select(self, preactivations: Tensor, count: int | None = None) -> Tensor:
        """Which pre-activations ``[n, d_sae]`` are kept in training (topk and batch_topk only).

        Args:
            preactivations: ``sae.preactivations(x)``.
            count: For batch_topk, how many to keep instead of ``k * n``: a process that takes part in a
                selection over several processes passes its own share.

        Returns:
            Flat positions ``token * d_sae + neuron``, int64, of positive pre-activations only.
        """
        raise NotImplementedError(f"{self.name} has no selection by rank; use train_latents")

    def scale_inputs_(self, sae: "SAE", factor: float) -> None:
        """Rescales own parameters (all but ``b_dec``) for inputs that are ``factor`` times larger."""
        sae.b_enc.mul_(factor)


class ReLU(Sparsity):
    """``relu(hidden)``, trained with an L1 penalty (Bricken et al., "Towards Monosemanticity", 2023)."""

    name = "relu"

    def infer(self, sae, hidden):
        """See :meth:`Sparsity.infer`."""
        return hidden.relu()

    def train_latents(self, sae, x):
        """See :meth:`Sparsity.train_latents`. Decoder norms in the penalty: scaling cannot evade it."""
        latents = sae.hidden(x).relu()
        return TrainingLatents(latents, _weighted_l1(sae, latents), latents.new_zeros(()))


class TopK(Sparsity):
    """The k largest of each token (Gao et al., "Scaling and evaluating sparse autoencoders", 2024, eq. 3)."""

    name = "topk"
    selects_by_rank = True

    def infer(self, sae, hidden):
        """See :meth:`Sparsity.infer`."""
        return _keep_top_k(hidden, self.k)

    def infer_sparse(self, sae, hidden, max_active):
        """See :meth:`Sparsity.infer_sparse`."""
        k = self.k if max_active is None else min(self.k, max_active)
        values, indices = _top_k(hidden.relu(), k)
        return SparseLatents(values, indices.masked_fill(values <= 0, 0))

    def train_latents(self, sae, x):
        """See :meth:`Sparsity.train_latents`."""
        return _selected(self, sae.preactivations(x))

    def train_select(self, preactivations, count=None):
        """See :meth:`Sparsity.train_select`; ``count`` has no meaning here."""
        values, indices = _top_k(preactivations, self.k)
        first = torch.arange(len(preactivations), device=indices.device) * preactivations.shape[-1]
        return (indices + first[:, None])[values > 0]


class BatchTopK(Sparsity):
    """The ``k * n`` largest of a batch of n tokens; at inference those above one threshold.

    Bussmann et al., "BatchTopK sparse autoencoders", 2024. The inference rule is the gate
    ``pre * (pre > threshold)``, not a shift. With ``group_sizes`` in the SAE this is the Matryoshka SAE
    (Bussmann et al., 2025): selection is once over all groups.
    """

    name = "batch_topk"
    selects_by_rank = True
    _warned = False

    def create_parameters(self, sae):
        """See :meth:`Sparsity.create_parameters`. ``threshold`` starts as :data:`UNSET`."""
        super().create_parameters(sae)
        shape = (sae.d_sae,) if sae.threshold_per_neuron else ()
        sae.register_buffer("threshold", torch.full(shape, UNSET))

    def infer(self, sae, hidden):
        """See :meth:`Sparsity.infer`. An unset threshold means the k largest of each token, and a warning."""
        if sae.threshold_is_set:
            return _gate(hidden, sae.threshold)
        if not self._warned:
            self._warned = True
            logger.warning(
                "this batch_topk SAE has no threshold yet: keeping the %d largest latents of each token. "
                "Call calibrate_threshold(activations).",
                self.k,
            )
        return _keep_top_k(hidden, self.k)

    def train_latents(self, sae, x):
        """See :meth:`Sparsity.train_latents`."""
        return _selected(self, sae.preactivations(x))

    def train_select(self, preactivations, count=None):
        """See :meth:`Sparsity.train_select`."""
        flat = preactivations.flatten()
        count = self.k * len(preactivations) if count is None else count
        values, positions = flat.topk(min(count, len(flat)), sorted=False)
        return positions[values > 0]

    def track_threshold_(self, sae: "SAE", smallest_active: Tensor, decay: float = 0.999) -> None:
        """Moves the threshold towards the smallest active latent of a training batch; copies the first."""
        if sae.threshold_is_set:
            sae.threshold.lerp_(smallest_active.to(sae.threshold).expand_as(sae.threshold), 1 - decay)
        else:
            sae.threshold.copy_(smallest_active)

    def scale_inputs_(self, sae, factor):
        """See :meth:`Sparsity.scale_inputs_`."""
        super().scale_inputs_(sae, factor)
        if sae.threshold_is_set:
            sae.threshold.mul_(factor)


class JumpReLU(Sparsity):
    """``pre * (pre > threshold)`` with a learned threshold per neuron.

    Rajamanoharan et al., "Jumping ahead", 2024. The gradients of the thresholds, of the latents (eq. 11) and
    of L0 (eq. 12), are estimated with a rectangular kernel of width ``bandwidth``.
    """

    name = "jumprelu"

    def create_parameters(self, sae):
        """See :meth:`Sparsity.create_parameters`. ``threshold`` is a parameter ``[d_sae]``."""
        sae.b_enc = nn.Parameter(torch.zeros(sae.d_sae))
        sae.threshold = nn.Parameter(torch.full((sae.d_sae,), self.bandwidth))

    def infer(self, sae, hidden):
        """See :meth:`Sparsity.infer`. A threshold that training pushed below zero acts as zero."""
        return _gate(hidden, sae.threshold.clamp_min(0))

    def train_latents(self, sae, x):
        """See :meth:`Sparsity.train_latents`."""
        hidden = sae.hidden(x)
        latents = jump_gate(hidden, sae.threshold, self.bandwidth)
        l0 = step(hidden, sae.threshold, self.bandwidth).sum(-1).mean()
        return TrainingLatents(latents, l0, l0.new_zeros(()))

    def scale_inputs_(self, sae, factor):
        """See :meth:`Sparsity.scale_inputs_`. The window scales as well, so that training can go on."""
        super().scale_inputs_(sae, factor)
        sae.threshold.mul_(factor)
        self.bandwidth *= factor


class Gated(Sparsity):
    """A gate decides which latents are on, magnitudes share its directions.

    Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders", 2024, eq. 6 to 8.
    """

    name = "gated"

    def create_parameters(self, sae):
        """See :meth:`Sparsity.create_parameters`. As in SAELens there is no ``b_enc``."""
        sae.register_parameter("b_enc", None)
        sae.register_buffer("threshold", None)
        for name in ("b_gate", "b_mag", "r_mag"):
            sae.register_parameter(name, nn.Parameter(torch.zeros(sae.d_sae)))

    def preactivations(self, sae, hidden):
        """See :meth:`Sparsity.preactivations`."""
        return (hidden * sae.r_mag.exp() + sae.b_mag).relu()

    def infer(self, sae, hidden):
        """See :meth:`Sparsity.infer`."""
        return torch.where(hidden + sae.b_gate > 0, self.preactivations(sae, hidden), 0.0)

    def train_latents(self, sae, x):
        """See :meth:`Sparsity.train_latents`. The penalty and the auxiliary loss train the gate."""
        hidden = sae.hidden(x)
        gate = (hidden + sae.b_gate).relu()
        through_gate = gate @ sae.W_dec.detach() + sae.b_dec.detach()
        auxiliary = (x - through_gate).square().sum(-1).mean()
        return TrainingLatents(self.infer(sae, hidden), _weighted_l1(sae, gate), auxiliary)

    def scale_inputs_(self, sae, factor):
        """See :meth:`Sparsity.scale_inputs_`."""
        sae.b_gate.mul_(factor)
        sae.b_mag.mul_(factor)


SPARSITIES: dict[str, type[Sparsity]] = {
    cls.name: cls for cls in (ReLU, TopK, BatchTopK, JumpReLU, Gated)
}  # fmt: skip


def _gate(hidden: Tensor, threshold: Tensor) -> Tensor:
    if threshold.ndim == 0:  # the fused form, one pass instead of two
        return nn.functional.threshold(hidden, threshold.item(), 0.0, inplace=not hidden.requires_grad)
    return torch.where(hidden > threshold, hidden, 0.0)


def _top_k(preactivations: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return preactivations.topk(min(k, preactivations.shape[-1]), dim=-1)


def _keep_top_k(hidden: Tensor, k: int) -> Tensor:
    values, indices = _top_k(hidden.relu(), k)
    return torch.zeros_like(hidden).scatter(-1, indices, values)


def _selected(sparsity: Sparsity, preactivations: Tensor) -> TrainingLatents:
    mask = torch.zeros_like(preactivations).flatten()
    mask[sparsity.train_select(preactivations.detach())] = 1
    zero = preactivations.new_zeros(())
    return TrainingLatents(preactivations * mask.view_as(preactivations), zero, zero)


def _weighted_l1(sae: "SAE", latents: Tensor) -> Tensor:
    return (latents @ sae.decoder_norms()).mean()
