"""The settings of an SAE's training run; the defaults are the reference recipe."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

# Settings that a continued run may have otherwise; all others would change what is computed.
FREE_SETTINGS = {"log_every", "eval_every", "checkpoint_every", "log_with", "eval_tokens"}
# Matryoshka: shares of the neurons that each nested group adds.
REFERENCE_GROUPS = (0.0625, 0.125, 0.25, 0.5625)


@dataclass(frozen=True)
class TrainConfig:
    """What every training run on stored activations is told.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    steps: int = 100_000
    batch_size: int = 4096
    """Tokens per step, of all processes together."""
    betas: tuple[float, float] = (0.9, 0.999)
    mixed_precision: Literal["no", "bf16"] = "no"
    seed: int = 0

    heldout_fraction: float = 0.02
    """Share of the images that is kept out of training, for every figure that is reported."""
    eval_tokens: int = 200_000
    """Held-out tokens that an evaluation reads, at most, rounded up to whole batches."""
    log_every: int = 100
    eval_every: int = 5000
    checkpoint_every: int = 5000
    log_with: tuple[str, ...] = ("jsonl",)
    """Trackers of Accelerate: "jsonl" (no dependency), "trackio", "tensorboard", "wandb"."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
            # YAML reads 1e-4 as text.
            if isinstance(value, str) and float in _alternatives(field.type):
                value = _number_or_text(value)
            if isinstance(value, int) and not isinstance(value, bool) and field.type is float:
                value = float(value)
            object.__setattr__(self, field.name, value)
            if not _fits(value, field.type):
                raise ValueError(f"{field.name} must be {_spell(field.type)}, got {value!r}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for name in ("steps", "batch_size", "eval_tokens", "log_every", "eval_every", "checkpoint_every"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        _require(self.seed >= 0, "seed", "at least 0", self.seed)
        _require(0 < self.heldout_fraction < 1, "heldout_fraction", "between 0 and 1", self.heldout_fraction)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "TrainConfig":
        """A config from a recipe's section or a stored ``training.json``; unknown keys are an error."""
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(settings.keys() - set(names)):
            raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join(names)}")
        return cls(**settings)

    def changed_from(self, stored: dict[str, Any]) -> list[str]:
        """What a run with these settings cannot continue of one with others, in words; see :data:`FREE_SETTINGS`.

        Args:
            stored: :meth:`to_dict` of the other run.
        """
        mine = self.to_dict()
        return [
            f"{name} (was {value!r})"
            for name, value in stored.items()
            if name not in FREE_SETTINGS and mine.get(name) != value
        ]

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True)
class SAETrainConfig(TrainConfig):
    """Everything that decides the weights of an SAE, beside the activations themselves.

    The defaults follow the public training code of Pach et al., "Sparse autoencoders learn monosemantic
    features in vision-language models", 2025, which is that of ``dictionary_learning``.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    expansion: int = 64
    """Neurons per dimension of the activations; ``d_sae = expansion * d_in`` unless ``d_sae`` is given."""
    d_sae: int | None = None
    activation: Literal["relu", "topk", "batch_topk", "jumprelu", "gated"] = "batch_topk"
    k: int = 20
    group_fractions: tuple[float, ...] | None = REFERENCE_GROUPS
    """Share of the neurons in each Matryoshka group, coarsest first; null for no groups."""
    bandwidth: float = 0.001
    """jumprelu: width of the window in which thresholds get a gradient, in units of the scaled input."""
    threshold_per_neuron: bool = False

    lr: float | Literal["auto_code", "auto_paper"] = "auto_code"
    """auto_code: ``2e-4 / sqrt(d_sae / 2**14)``; auto_paper: ``16 / (125 sqrt(d_sae))``, five times as much."""
    warmup_steps: int = 1000
    decay_start: int | None = None
    """Step from which the learning rate falls linearly to 0 at ``steps``; null: it stays."""
    max_grad_norm: float = 1.0

    matryoshka_reduction: Literal["dictionary_learning", "mean", "sum"] = "dictionary_learning"
    """How the groups' errors become one loss: sum / groups**2 (as the reference code does), / groups, / 1."""
    auxk_alpha: float = 0.03
    """Weight of the loss that revives dead neurons (topk and batch_topk)."""
    k_aux: int | None = None
    """Dead neurons that reconstruct the error, at most, per token; default ``d_in // 2``."""
    dead_after_tokens: int = 10_000_000
    """A neuron that has not fired for this many tokens is dead."""
    sparsity_coefficient: float = 0.05
    """Weight of the L1 (relu, gated) or L0 (jumprelu) penalty; the other activations have none. L0 counts latents, so
    jumprelu wants a much smaller weight (0.002, say)."""
    threshold_decay: float = 0.999
    threshold_start: int = 1000
    """Step after which batch_topk's threshold is tracked; the first value is copied."""

    b_dec_init: Literal["geometric_median", "mean", "zero"] = "geometric_median"
    normalize_inputs: bool = True
    """Train on ``x / sqrt(mean |x|**2)``; the scale is folded into the weights that are saved."""

    def _check_ranges(self) -> None:
        super()._check_ranges()
        for name in ("expansion", "k", "bandwidth", "max_grad_norm", "dead_after_tokens"):
            _require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("warmup_steps", "auxk_alpha", "sparsity_coefficient", "threshold_start"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("d_sae", "k_aux"):
            _require(getattr(self, name) is None or getattr(self, name) > 0, name, "positive", getattr(self, name))
        _require(0 <= self.threshold_decay < 1, "threshold_decay", "in [0, 1)", self.threshold_decay)
        if isinstance(self.lr, float):
            _require(self.lr > 0, "lr", "positive", self.lr)
        if self.decay_start is not None:
            _require(0 <= self.decay_start < self.steps, "decay_start", "below steps", self.decay_start)
        if self.group_fractions is not None:
            groups = self.group_fractions
            fine = bool(groups) and min(groups) > 0 and math.isclose(sum(groups), 1, abs_tol=1e-6)
            _require(fine, "group_fractions", "positive and sum to 1", groups)

    def neurons(self, d_in: int) -> int:
        """``d_sae`` for activations of width ``d_in``."""
        return self.d_sae or self.expansion * d_in

    def group_sizes(self, d_in: int) -> tuple[int, ...] | None:
        """Sizes of the Matryoshka groups: fractions rounded down, the remainder goes to the last."""
        if self.group_fractions is None:
            return None
        d_sae = self.neurons(d_in)
        sizes = [int(fraction * d_sae + 1e-6) for fraction in self.group_fractions[:-1]]
        return (*sizes, d_sae - sum(sizes))

    def peak_lr(self, d_sae: int) -> float:
        """The learning rate after warm-up."""
        if self.lr == "auto_code":
            return 2e-4 / math.sqrt(d_sae / 2**14)
        if self.lr == "auto_paper":
            return 16 / (125 * math.sqrt(d_sae))
        return self.lr

    def lr_at(self, step: int, d_sae: int) -> float:
        """The learning rate of a step (0-based): linear warm-up from 0, constant, optional linear decay."""
        factor = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_start is not None and step > self.decay_start:
            factor *= (self.steps - step) / (self.steps - self.decay_start)
        return factor * self.peak_lr(d_sae)


OBJECTIVES = ("reconstruction", "interpretability", "steerability")


@dataclass(frozen=True)
class CBSAETrainConfig(TrainConfig):
    """Everything that decides the weights of a bottleneck, beside the SAE, the activations and the concepts.

    The defaults are those of the CB-SAE paper, sections 5.2 and 6.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    steps: int = 110_000
    lr: float = 2e-4
    objectives: tuple[str, ...] = OBJECTIVES
    """Which are trained, in this order in every step: each with an Adam of its own."""
    start: Literal["random", "ridge"] = "random"
    """Where the weights come from: drawn with the model, or a ridge regression and its patterns, in closed form. The
    paper does not say; from a regression a tenth of the steps suffices."""
    unit_rows: bool = False
    """Whether rows of the decoder have length 1, like those of an SAE, so that a strength means as much for a concept
    as for a neuron. In the paper nothing holds them."""
    reconstruction_moves_encoder: bool = True
    """Whether reconstruction trains both matrices, as in the paper, or the decoder alone, so that no concept neuron is
    drawn away from its concept by what the SAE leaves unexplained."""

    def _check_ranges(self) -> None:
        super()._check_ranges()
        _require(self.lr > 0, "lr", "positive", self.lr)
        ordered = tuple(name for name in OBJECTIVES if name in self.objectives)
        fine = bool(ordered) and ordered == self.objectives
        _require(fine, "objectives", f"some of {OBJECTIVES}, in order", self.objectives)


def _require(condition: bool, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    is_union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    return typing.get_args(kind) if is_union else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    return any(_fits_one(value, alternative) for alternative in _alternatives(kind))


def _fits_one(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        inner = [part for part in typing.get_args(kind) if part is not Ellipsis]
        length_fits = Ellipsis in typing.get_args(kind) or (isinstance(value, tuple) and len(value) == len(inner))
        return isinstance(value, tuple) and length_fits and all(_fits(item, inner[0]) for item in value)
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _spell(kind: Any) -> str:
    names = []
    for alternative in _alternatives(kind):
        if typing.get_origin(alternative) is Literal:
            names += [repr(choice) for choice in typing.get_args(alternative)]
        else:
            names.append("null" if alternative is type(None) else getattr(alternative, "__name__", str(alternative)))
    return " or ".join(names)


def _number_or_text(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
