"""The sparse autoencoder: six variants behind one class, with weights named and shaped as in SAELens."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cbsae_hub.models import checks
from cbsae_hub.models.activations import ACTIVATIONS, IN_INPUT_UNITS, PER_NEURON, Activation, Settings, TrainingLatents
from cbsae_hub.models.base import HubModel, entry
from cbsae_hub.models.calibration import exact_threshold, token_chunks
from cbsae_hub.models.input_norm import KINDS, denormalize, normalize, scale
from cbsae_hub.models.provenance import SAEProvenance
from cbsae_hub.models.sparse_latents import SparseLatents, gather_rows, mostly_zero_product

logger = logging.getLogger(__name__)

MAX_D_IN = 2**16
MAX_D_SAE = 2**23
MAX_MATRIX = 2**32
UNSET = -1.0  # value of a threshold that was neither tracked nor calibrated yet


class SAEOutput(NamedTuple):
    """Result of ``sae(x)``."""

    latents: Tensor
    """``[..., d_sae]``"""
    reconstruction: Tensor
    """``[..., d_in]``"""


class SAE(HubModel, tags=["sparse-autoencoder"]):
    """Sparse autoencoder of a vision encoder's activations.

    ``hidden = (x - b_dec) @ W_enc + b_enc``; an activation function makes latents of it
    (:mod:`cbsae_hub.models.activations`); ``reconstruction = latents @ W_dec + b_dec``. With ``input_norm``, all this
    happens to normalised tokens. A reconstruction then gets back the mean and scale of its token, which :meth:`decode`
    takes as ``like=x``.

    Parameters: ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]`` (rows of unit norm at the start),
    ``b_dec [d_in]``; jumprelu: ``threshold [d_sae]``; gated: ``b_gate``, ``b_mag``, ``r_mag [d_sae]`` and no ``b_enc``.
    Buffer of batch_topk: ``threshold``, scalar or ``[d_sae]``, negative while unset. ``threshold`` is None for relu,
    topk and gated. Saved weights act on raw activations (:meth:`fold_input_scale`).

    Args:
        d_in: Width of the activations.
        d_sae: Number of neurons.
        activation: "relu", "topk", "batch_topk", "jumprelu" or "gated".
        k: Active latents per token: exactly (topk), on average (batch_topk), or the L0 that
            :meth:`calibrate_threshold` aims at (jumprelu). relu and gated do not read it.
        group_sizes: Sizes of the nested groups of a Matryoshka SAE, coarsest first; their sum is ``d_sae``.
        threshold_per_neuron: batch_topk only: ``threshold`` is a vector instead of one number.
        bandwidth: jumprelu only: width of the window in which thresholds get a gradient, in units of ``x``.
        input_norm: Normalisation of each token before all else: "layer_norm", "constant_norm", or None as in every SAE
            that is trained here; see :mod:`cbsae_hub.models.input_norm`.
        seed: Seed of the initial weights (and of training); None draws from torch's global generator.
        **provenance: Entries of :class:`cbsae_hub.models.provenance.SAEProvenance`: ``encoder_id``, ``layer``, ...

    Raises:
        ValueError: If a value is of the wrong type, out of range, or unreasonably large.
    """

    provenance_class = SAEProvenance
    provenance: SAEProvenance
    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_enc: nn.Parameter | None
    b_gate: nn.Parameter | None
    b_mag: nn.Parameter | None
    r_mag: nn.Parameter | None
    threshold: Tensor | None
    _warned = False

    norm_factor = entry("norm_factor", "The input scale that was folded in.")
    imported_from = entry("imported_from", "Source and changes of somebody else's SAE.")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        activation: str = "batch_topk",
        k: int = 20,
        group_sizes: tuple[int, ...] | None = None,
        *,
        threshold_per_neuron: bool = False,
        bandwidth: float = 0.001,
        input_norm: str | None = None,
        seed: int | None = None,
        **provenance: Any,
    ):
        super().__init__()
        self.provenance = SAEProvenance(**provenance)
        self.d_in = checks.integer("d_in", d_in, 1, MAX_D_IN)
        self.d_sae = checks.integer("d_sae", d_sae, 1, MAX_D_SAE)
        if self.d_in * self.d_sae > MAX_MATRIX:
            raise ValueError(f"d_in * d_sae = {d_in} * {d_sae} exceeds the limit of {MAX_MATRIX} weights")
        self.activation = checks.choice("activation", activation, ACTIVATIONS)
        self.k = checks.integer("k", k, 1, MAX_D_SAE)
        self.group_sizes = checks.partition("group_sizes", group_sizes, self.d_sae)
        self.threshold_per_neuron = checks.boolean("threshold_per_neuron", threshold_per_neuron)
        if threshold_per_neuron and activation != "batch_topk":
            raise ValueError("threshold_per_neuron is a setting of activation 'batch_topk' only")
        self.bandwidth = checks.positive("bandwidth", bandwidth)
        self.input_norm = None if input_norm is None else checks.choice("input_norm", input_norm, KINDS)
        self.seed = None if seed is None else checks.integer("seed", seed, 0, 2**64 - 1)

        self.W_enc = nn.Parameter(torch.empty(self.d_in, self.d_sae))
        self.W_dec = nn.Parameter(torch.empty(self.d_sae, self.d_in))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))
        for name in PER_NEURON:
            needed = name in self.activation_function.parameters
            self.register_parameter(name, nn.Parameter(torch.zeros(self.d_sae)) if needed else None)
        if activation == "jumprelu":
            self.threshold = nn.Parameter(torch.full((self.d_sae,), self.bandwidth))
        else:
            shape = (self.d_sae,) if threshold_per_neuron else ()
            self.register_buffer("threshold", torch.full(shape, UNSET) if activation == "batch_topk" else None)
        if not self.W_dec.is_meta:
            self.reset_matrices_()

    def extra_repr(self) -> str:
        """Text in ``print(sae)``: widths, activation function, and the activations that it explains."""
        settings = {"d_in": self.d_in, "d_sae": self.d_sae, "activation": self.activation}
        if self.activation_function.selects_by_rank:
            settings["k"] = self.k
        settings |= {"encoder_id": self.encoder_id, "layer": self.layer, "tokens": self.tokens}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items() if value is not None)

    @property
    def d_latent(self) -> int:
        """Number of latents; a concept bottleneck SAE has more of them than neurons of an SAE."""
        return self.d_sae

    @property
    def activation_function(self) -> Activation:
        """The function that makes latents of hidden values."""
        return ACTIVATIONS[self.activation]

    def activation_settings(self) -> Settings:
        """Settings of this SAE that the activation function reads; an unset threshold is None."""
        threshold = self.threshold if self.threshold_is_set else None
        return Settings(self.k, self.bandwidth, threshold, self.b_gate, self.b_mag, self.r_mag)

    @torch.no_grad()
    def reset_matrices_(self) -> None:
        """Draws decoder rows uniformly from the unit sphere; the encoder is a copy of their transpose."""
        generator = None if self.seed is None else torch.Generator(self.W_dec.device).manual_seed(self.seed)
        self.W_dec.normal_(generator=generator)
        self.normalize_decoder_()
        self.W_enc.copy_(self.W_dec.T)

    # ------------------------------------------------------------------------------------------- inference

    def normalized(self, x: Tensor) -> Tensor:
        """Tokens ``[..., d_in]`` in the units of the weights: ``x`` itself, unless there is an ``input_norm``."""
        x = x.to(self.W_enc.dtype)
        return x if self.input_norm is None else normalize(self.input_norm, x)

    def unit(self, like: Tensor | None) -> Tensor | float:
        """Length of a step of 1 in the units of the weights, at tokens ``like``: 1, or ``[..., 1]``.

        Raises:
            ValueError: If there is an ``input_norm`` and no ``like``.
        """
        return 1.0 if self.input_norm is None else scale(self.input_norm, self._needed(like))

    def origin(self, like: Tensor | None = None) -> Tensor:
        """Reconstruction of latents that are all 0: ``[d_in]``, with an ``input_norm`` ``[..., d_in]``."""
        return self._denormalized(self.b_dec, like)

    def hidden(self, x: Tensor) -> Tensor:
        """The one dense product: ``(x - b_dec) @ W_enc + b_enc``, ``[..., d_in] -> [..., d_sae]``."""
        return nn.functional.linear(self.normalized(x) - self.b_dec, self.W_enc.T, self.b_enc)

    def preactivations(self, x: Tensor) -> Tensor:
        """Magnitudes before selection, ``relu(hidden(x))`` (gated: of its magnitude branch)."""
        return self.activation_function.preactivations(self.hidden(x), self.activation_settings())

    def encode(self, x: Tensor) -> Tensor:
        """Latents by the inference rule, dense: ``[..., d_in] -> [..., d_sae]``, in the dtype of the weights.

        Raises:
            ValueError: If the last dimension is not ``d_in``, or ``x`` is not floating point or not finite.
        """
        return self.activation_function.infer(self.hidden(self._checked(x)), self._inference_settings())

    @torch.no_grad()
    def encode_sparse(self, x: Tensor, max_active: int | None = None) -> SparseLatents:
        """The active latents of :meth:`encode` only, without gradients and without a ``[..., d_sae]`` tensor.

        Args:
            x: ``[..., d_in]``.
            max_active: Keep at most this many, the strongest, per token.

        Returns:
            ``(values, indices)``, each ``[..., K]``: see :class:`cbsae_hub.models.sparse_latents.SparseLatents`. K is
            the largest number of active latents of a token.
        """
        if max_active is not None:
            checks.integer("max_active", max_active, 1, MAX_D_SAE)
        settings = self._inference_settings()
        parts = [
            self.activation_function.infer_sparse(self.hidden(chunk), settings, max_active)
            for chunk in token_chunks(self._checked(x).reshape(-1, self.d_in), self.d_sae)
        ]
        width = max(part.values.shape[-1] for part in parts)
        padded = [
            torch.cat([nn.functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors])
            for tensors in zip(*parts)
        ]
        return SparseLatents(*(tensor.reshape(*x.shape[:-1], width) for tensor in padded))

    def decode(self, latents: Tensor, like: Tensor | None = None) -> Tensor:
        """``latents @ W_dec + b_dec``, ``[..., d_sae] -> [..., d_in]``; latents may be signed.

        Where few latents are non-zero and no gradient is asked for, only the decoder rows of those are read.

        Args:
            latents: ``[..., d_sae]``.
            like: The tokens that the latents are of, ``[..., d_in]``: read only if there is an ``input_norm``.

        Raises:
            ValueError: If there is an ``input_norm`` and no ``like``.
        """
        latents = latents.to(self.W_dec.dtype)
        needs_gradient = torch.is_grad_enabled() and (latents.requires_grad or self.W_dec.requires_grad)
        product = torch.matmul if needs_gradient else mostly_zero_product
        return self._denormalized(product(latents, self.W_dec) + self.b_dec, like)

    def decode_sparse(self, values: Tensor, indices: Tensor, like: Tensor | None = None) -> Tensor:
        """:meth:`decode` of ``(values, indices)`` from :meth:`encode_sparse`, ``[..., K] -> [..., d_in]``."""
        return self._denormalized(gather_rows(SparseLatents(values, indices), self.W_dec) + self.b_dec, like)

    def only_active(self, latents: SparseLatents) -> SparseLatents:
        """The part of :meth:`encode_sparse` that the decoder reads: all of it."""
        return latents

    def forward(self, x: Tensor) -> SAEOutput:
        """Latents and reconstruction by the inference rule; ``x [..., d_in]`` in raw units."""
        latents = self.encode(x)
        return SAEOutput(latents, self.decode(latents, like=x))

    def prefix_reconstructions(self, latents: Tensor, like: Tensor | None = None) -> Tensor:
        """Reconstructions from the first group, the first two, ... (Matryoshka): ``[groups, ..., d_in]``.

        Without groups there is one, ``decode(latents)``; ``like`` as there.
        """
        sizes = list(self.group_sizes or (self.d_sae,))
        groups = zip(latents.to(self.W_dec.dtype).split(sizes, -1), self.W_dec.split(sizes))
        parts = torch.stack([part @ rows for part, rows in groups])
        return self._denormalized(parts.cumsum(0) + self.b_dec, like)

    @property
    def group_of(self) -> Tensor:
        """Group of each neuron, ``[d_sae]`` int64; all 0 without groups."""
        sizes = torch.tensor(self.group_sizes or (self.d_sae,))
        return torch.arange(len(sizes)).repeat_interleave(sizes).to(self.W_dec.device)

    # -------------------------------------------------------------------------------------------- training

    def train_latents(self, x: Tensor) -> TrainingLatents:
        """Latents by the training rule, dense, with the loss terms that go with it; ``x [n, d_in]``.

        The plain autograd form; training by rank has a faster one.
        """
        out = self.activation_function.train(self.hidden(x), self.decoder_norms(), self.activation_settings())
        auxiliary = out.penalty.new_zeros(())
        if out.gate is not None:
            through_gate = out.gate @ self.W_dec.detach() + self.b_dec.detach()
            auxiliary = (x - through_gate).square().sum(-1).mean()
        return TrainingLatents(out.latents, out.penalty, auxiliary)

    def decoder_norms(self) -> Tensor:
        """L2 norm of each decoder row, ``[d_sae]``."""
        return self.W_dec.norm(dim=-1)

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Scales decoder rows to unit norm; the encoder is left alone, so this is a step of training."""
        self.W_dec.div_(self.decoder_norms().clamp_min(torch.finfo(self.W_dec.dtype).tiny)[:, None])

    @property
    def threshold_is_set(self) -> bool:
        """Whether there is an inference threshold that was learned, tracked or calibrated."""
        learned = isinstance(self.threshold, nn.Parameter)
        return learned or (self.threshold is not None and bool((self.threshold >= 0).all()))

    @torch.no_grad()
    def track_threshold_(self, smallest_active: Tensor, decay: float = 0.999) -> None:
        """Moves batch_topk's threshold towards the smallest active latent of a training batch; copies the first."""
        assert self.threshold is not None
        if self.threshold_is_set:
            self.threshold.lerp_(smallest_active.to(self.threshold).expand_as(self.threshold), 1 - decay)
        else:
            self.threshold.copy_(smallest_active)

    @torch.no_grad()
    def calibrate_threshold(
        self,
        activations: Tensor | Iterable[Tensor] | Callable[[], Iterable[Tensor]],
        target_l0: float | None = None,
        *,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> float:
        """Sets the threshold such that held-out tokens have ``target_l0`` active latents on average, exactly.

        Two passes over the data and no ``[n, d_sae]`` matrix. A vector of thresholds is multiplied by one factor.

        Args:
            activations: A tensor ``[..., d_in]``; or batches of it that can be iterated twice (a list, a
                DataLoader); or a function that returns an iterator over batches.
            target_l0: Active latents per token; default ``k``.
            reduce: Sums an int64 tensor, on the device of the SAE, over the processes that each hold a part of
                the data.

        Returns:
            The threshold (of a vector: the factor it was multiplied with).

        Raises:
            ValueError: If the activation function has no threshold, or there is no data.
        """
        if self.threshold is None:
            raise ValueError(f"activation {self.activation!r} has no threshold to calibrate")
        target_l0 = checks.positive("target_l0", self.k if target_l0 is None else target_l0)
        is_factor = self.threshold.ndim == 1 and self.threshold_is_set
        scale = self.threshold.float().clamp_min(1e-30) if is_factor else torch.ones_like(self.threshold.float())
        device = self.W_enc.device

        def scores(x: Tensor) -> Tensor:
            return self.preactivations(self._checked(x.to(device))).float() / scale

        def total(counts: Tensor) -> Tensor:
            return counts if reduce is None else reduce(counts.to(device)).cpu()

        threshold = exact_threshold(scores, activations, self.d_sae, target_l0, total, self.W_enc.dtype)
        self.threshold.copy_(scale * threshold)
        return threshold

    @torch.no_grad()
    def fold_input_scale(self, norm_factor: float) -> None:
        """Makes an SAE that was trained on ``x / norm_factor`` act on raw ``x``.

        Biases and thresholds are multiplied by ``norm_factor``, the matrices stay. Latents are then in raw
        units: with a unit decoder, a latent of 1 displaces the activation by 1.

        Raises:
            ValueError: If the factor is not positive, or tokens are normalised one by one (``input_norm``).
        """
        factor = checks.positive("norm_factor", norm_factor)
        if self.input_norm is not None:
            raise ValueError(
                f"input_norm {self.input_norm!r} takes every scale out of the tokens: there is none to fold"
            )
        scaled = [getattr(self, name) for name in IN_INPUT_UNITS if name != "threshold" or self.threshold_is_set]
        for tensor in (self.b_dec, *scaled):
            if tensor is not None:
                tensor.mul_(factor)
        if self.activation == "jumprelu":  # the window scales as well, so that training can go on
            self.bandwidth *= factor
        self.provenance = replace(self.provenance, norm_factor=factor * (self.norm_factor or 1.0))

    def _inference_settings(self) -> Settings:
        settings = self.activation_settings()
        if self.activation == "batch_topk" and settings.threshold is None and not self._warned:
            self._warned = True
            logger.warning("this batch_topk SAE has no threshold yet: keeping the %d largest latents of each token. "
                           "Call calibrate_threshold(activations).", self.k)  # fmt: skip
        return settings

    def _needed(self, like: Tensor | None) -> Tensor:
        if like is None:
            raise ValueError(
                f"this SAE normalises each token ({self.input_norm}); to decode, say of which tokens the latents are, "
                "whose mean and scale their reconstructions get: decode(latents, like=x)"
            )
        return like.to(self.W_dec.dtype)

    def _denormalized(self, y: Tensor, like: Tensor | None) -> Tensor:
        return y if self.input_norm is None else denormalize(self.input_norm, y, self._needed(like))

    def _checked(self, x: Tensor) -> Tensor:
        expected = f"expected floating-point activations [..., {self.d_in}]"
        if not isinstance(x, Tensor):
            raise ValueError(f"{expected}, not a {type(x).__name__}")
        if not x.is_floating_point() or x.shape[-1:] != (self.d_in,):
            raise ValueError(f"{expected}, got {x.dtype} {tuple(x.shape)}")
        if not x.isfinite().all():
            raise ValueError("the activations hold NaN or infinite values; look at the encoder's output first")
        return x
