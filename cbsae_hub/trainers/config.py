"""The settings of an SAE's training run; the defaults are the reference recipe."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cbsae_hub.trainers.settings import Count, Flag, Natural, NotNegative, Number, Positive, Settings

# Settings that a continued run may change; all others would change its results.
FREE_SETTINGS = {"log_every", "eval_every", "checkpoint_every", "log_with", "eval_tokens"}
# The number of active latents varies among tokens about as much as its mean, so that of 1,000 tokens the mean is known
# to 3 %: less would show in the L0 that a threshold is calibrated for.
FEW_TOKENS = 1000
TOKENS_PER_NEURON = 10
Control = Literal[
    "frozen_decoder", "soft_frozen_decoder", "frozen_encoder", "permuted_decoder", "untrained", "raw_neurons",
    "random_directions", "pca", "kmeans",
]  # fmt: skip
BOTH_WAYS = ("raw_neurons", "random_directions", "pca")  # controls with two neurons for each dimension
WITHOUT_GRADIENTS = ("untrained", "kmeans", *BOTH_WAYS)
# Matryoshka: shares of the neurons that each nested group adds.
REFERENCE_GROUPS = (0.0625, 0.125, 0.25, 0.5625)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of every training run on stored activations.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    steps: Count = 100_000
    """Batches that are trained on; a pass over the data need not be whole."""
    batch_size: Count = 4096
    """Tokens per step, of all processes together."""
    betas: tuple[Number, Number] = (0.9, 0.999)
    """Adam's, of its means and of its squares."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16 is faster on a GPU."""
    seed: Natural = 0
    """Seed of the first weights, of the order of the activations and of the images that are held out."""

    heldout_fraction: Annotated[Positive, Field(lt=1)] = 0.02
    """Share of the images that is kept out of training, for every figure that is reported."""
    eval_tokens: Count = 200_000
    """Held-out tokens that an evaluation reads, at most, rounded up to whole batches."""
    log_every: Count = 100
    """Steps between lines of the log."""
    eval_every: Count = 5000
    """Steps between evaluations on held-out tokens."""
    checkpoint_every: Count = 5000
    """Steps between checkpoints, from which a stopped run goes on."""
    log_with: tuple[str, ...] = ("jsonl",)
    """Trackers of Accelerate: "jsonl" (no dependency), "trackio", "tensorboard", "wandb"."""

    def changed_from(self, stored: dict[str, Any]) -> list[str]:
        """Settings of another run that one with these settings cannot continue, in words; see :data:`FREE_SETTINGS`.

        Args:
            stored: :meth:`to_dict` of the other run.
        """
        mine = self.to_dict()
        return [
            f"{name} (was {value!r})"
            for name, value in stored.items()
            if name not in FREE_SETTINGS and mine.get(name) != value
        ]

    def doubts(self, tokens: int, heldout_tokens: int, d_in: int) -> list[str]:
        """Lists what these settings cannot do with so little data, a sentence each; none if all is well.

        Args:
            tokens: Tokens to train on.
            heldout_tokens: Tokens that are kept out of training.
            d_in: Width of the activations.
        """
        doubts = []
        if tokens < self.batch_size:
            doubts.append(
                f"{tokens:,} tokens are fewer than one batch of {self.batch_size:,}: lower batch_size, or extract more "
                "images"
            )
        if (read := min(heldout_tokens, self.eval_tokens)) < FEW_TOKENS:
            setting = "heldout_fraction" if heldout_tokens < FEW_TOKENS else "eval_tokens"
            doubts.append(
                f"{self._use_of_heldout} on {read:,} held-out tokens, and {FEW_TOKENS:,} are the least for that: raise "
                f"{setting}"
            )
        return doubts

    def require_same(self, stored: dict[str, Any]) -> None:
        """Refuses the settings of a checkpoint that a run with these cannot continue.

        Raises:
            ValueError: Names the settings that differ.
        """
        if changed := self.changed_from(stored):
            raise ValueError(f"the checkpoint is of other settings: {', '.join(changed)}")

    @property
    def _use_of_heldout(self) -> str:
        return "the figures are measured"


@dataclass(frozen=True)
class SAETrainConfig(TrainConfig):
    """All settings that decide the weights of an SAE, beside the activations themselves.

    The defaults follow the public training code of Pach et al., "Sparse autoencoders learn monosemantic
    features in vision-language models", 2025, which is that of ``dictionary_learning``.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    expansion: Count = 64
    """Neurons per dimension of the activations; ``d_sae = expansion * d_in`` unless ``d_sae`` is given."""
    d_sae: Count | None = None
    """Number of neurons; null is as ``expansion`` says."""
    activation: Literal["relu", "topk", "batch_topk", "jumprelu", "gated"] = "batch_topk"
    """What makes latents sparse."""
    k: Count = 20
    """Active latents per token (topk), or in the mean of a batch (batch_topk)."""
    group_fractions: tuple[Positive, ...] | None = REFERENCE_GROUPS
    """Share of the neurons in each Matryoshka group, coarsest first; null for no groups."""
    bandwidth: Positive = 0.001
    """jumprelu: width of the window in which thresholds get a gradient, in units of the scaled input."""
    threshold_per_neuron: Flag = False
    """batch_topk: whether each neuron has a threshold of its own in use."""

    lr: Positive | Literal["auto_code", "auto_paper"] = "auto_code"
    """auto_code: ``2e-4 / sqrt(d_sae / 2**14)``; auto_paper: ``16 / (125 sqrt(d_sae))``, five times as much."""
    warmup_steps: Natural = 1000
    """Steps in which the learning rate rises from 0."""
    decay_start: Natural | None = None
    """Step from which the learning rate falls linearly to 0 at ``steps``; null: it stays."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped at this length."""

    matryoshka_reduction: Literal["dictionary_learning", "mean", "sum"] = "dictionary_learning"
    """How the groups' errors become one loss: sum / groups**2 (as the reference code does), / groups, / 1."""
    revive: Literal["auxk", "ghost_grads"] = "auxk"
    """How dead neurons come back: auxk, by the loss with weight auxk_alpha (topk and batch_topk; others not at all), or
    ghost_grads, by that of ViT-Prisma (not gated)."""
    auxk_alpha: NotNegative = 0.03
    """Weight of the auxk loss that revives dead neurons (topk and batch_topk)."""
    k_aux: Count | None = None
    """Dead neurons that reconstruct the error, at most, per token; default ``d_in // 2``."""
    dead_after_tokens: Count = 10_000_000
    """A neuron that has not fired for this many tokens is dead."""
    sparsity_coefficient: NotNegative = 0.05
    """Weight of the L1 (relu, gated) or L0 (jumprelu) penalty; the other activations have none. L0 counts latents, so
    jumprelu wants a much smaller weight (0.002, say)."""
    monosemanticity_weight: NotNegative = 0.0
    """Weight of MonoLoss, one less the mean MonoSemanticity of a batch's neurons as the activations judge it; 0 leaves
    it out."""
    threshold_decay: Annotated[NotNegative, Field(lt=1)] = 0.999
    """Share of batch_topk's running threshold that each step keeps."""
    threshold_start: Natural = 1000
    """Step after which batch_topk's threshold is tracked; the first value is copied."""

    b_dec_init: Literal["geometric_median", "mean", "zero"] = "geometric_median"
    """Where b_dec starts, from the first batch."""
    normalize_inputs: Flag = True
    """Train on ``x / sqrt(mean |x|**2)``; the scale is folded into the weights that are saved."""
    control: Control | None = None
    """Makes nonsense to compare with, on the same data: frozen_decoder, soft_frozen_decoder (rows stay within a cosine
    of 0.8 of their start) and frozen_encoder are trained, permuted_decoder is permuted after that, untrained is the
    start. raw_neurons, random_directions, pca and kmeans are plain dictionaries. Null trains an SAE."""

    def __post_init__(self) -> None:
        if self.decay_start is not None and self.decay_start >= self.steps:
            raise ValueError(f"decay_start must be below steps, got {self.decay_start}")
        groups = self.group_fractions
        if groups is not None and not math.isclose(sum(groups), 1, abs_tol=1e-6):
            raise ValueError(f"group_fractions must be positive and sum to 1, got {groups}")
        if self.revive == "ghost_grads" and self.activation == "gated":
            raise ValueError(
                "ghost_grads need hidden values with one bias, which a gated SAE does not have: revive auxk"
            )

    def doubts(self, tokens: int, heldout_tokens: int, d_in: int) -> list[str]:
        """See :meth:`TrainConfig.doubts`."""
        doubts, total, neurons = super().doubts(tokens, heldout_tokens, d_in), self.tokens_seen, self.neurons(d_in)
        if not self.descends:
            return doubts
        if neurons * TOKENS_PER_NEURON > tokens:
            doubts.append(
                f"{neurons:,} neurons are more than a tenth of the {tokens:,} tokens: many will stay dead, or learn "
                "single images; lower expansion, or extract more images"
            )
        if self.dead_after_tokens > total:
            doubts.append(
                f"the run ends after {total:,} tokens, before dead_after_tokens {self.dead_after_tokens:,}: dead "
                "neurons are neither counted nor revived; lower it to a tenth of the run, say"
            )
        elif self.dead_after_tokens >= 0.9 * total:
            doubts.append(
                f"dead_after_tokens {self.dead_after_tokens:,} is reached at the end of the run, of {total:,} tokens: "
                "dead neurons have no time to be revived; lower it to a tenth of the run, say"
            )
        if 2 * self.warmup_steps > self.steps:
            doubts.append(
                f"warmup_steps {self.warmup_steps:,} is more than half of the {self.steps:,} steps: lower it, or train "
                "longer"
            )
        if self.activation == "batch_topk" and self.threshold_start >= self.steps - 1:
            doubts.append(
                f"threshold_start {self.threshold_start:,} is not before the end of the {self.steps:,} steps: no "
                "running threshold is tracked, and figures before the end are of another rule; lower it"
            )
        return doubts

    @property
    def _use_of_heldout(self) -> str:
        calibrated = "the threshold is calibrated and " if self.activation == "batch_topk" else ""
        return f"{calibrated}{super()._use_of_heldout}"

    @property
    def descends(self) -> bool:
        """Whether gradients change the SAE: not those of controls that are fitted otherwise, or not at all."""
        return self.control not in WITHOUT_GRADIENTS

    @property
    def tokens_seen(self) -> int:
        """Tokens of all steps, those of later passes too."""
        return self.steps * self.batch_size

    def neurons(self, d_in: int) -> int:
        """``d_sae`` for activations of width ``d_in``."""
        if self.control in BOTH_WAYS:
            return 2 * d_in
        return self.d_sae or self.expansion * d_in

    def group_sizes(self, d_in: int) -> tuple[int, ...] | None:
        """Sizes of the Matryoshka groups: fractions rounded down, the remainder goes to the last."""
        if self.group_fractions is None or not self.descends:
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
    """All settings that decide the weights of a bottleneck, beside the SAE, the activations and the concepts.

    The defaults are those of the CB-SAE paper, sections 5.2 and 6.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """

    steps: Count = 110_000
    """Batches that are trained on; with ``start: ridge`` a tenth suffices."""
    lr: Positive = 2e-4
    """Learning rate of each objective's Adam."""
    objectives: tuple[str, ...] = OBJECTIVES
    """The objectives that are trained, in this order in every step, each with an Adam of its own."""
    start: Literal["random", "ridge"] = "random"
    """The first weights: drawn with the model, or those of a ridge regression and its patterns, in closed form. The
    paper does not say. From a regression a tenth of the steps suffices."""
    unit_rows: Flag = False
    """Whether rows of the decoder have length 1, like those of an SAE, so that a strength means as much for a concept
    as for a neuron. In the paper they have any length."""
    reconstruction_moves_encoder: Flag = True
    """Whether reconstruction trains both matrices, as in the paper, or the decoder alone, so that no concept neuron is
    drawn away from its concept by what the SAE leaves unexplained."""

    def __post_init__(self) -> None:
        ordered = tuple(name for name in OBJECTIVES if name in self.objectives)
        if not ordered or ordered != self.objectives:
            raise ValueError(f"objectives must be some of {OBJECTIVES}, in order, got {self.objectives}")
