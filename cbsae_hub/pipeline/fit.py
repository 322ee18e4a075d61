"""Settings of a training that follow the data: how many images there are, and what the encoder makes of them."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Effort = Literal["quick", "normal", "thorough"]
EFFORT: dict[Effort, float] = {"quick": 0.25, "normal": 1.0, "thorough": 4.0}
"""Multiples of the tokens that a normal training sees."""
PASSES, LEAST_TOKENS = 10, 1_000_000
LARGEST_PASSES = 2000  # of so few tokens that a million of them would be single steps
HELDOUT_IMAGES, HELDOUT_SHARE, LARGEST_HELDOUT = 20, 0.02, 0.2
TOKENS_PER_NEURON = 40
LARGEST_EXPANSION = 64  # of Pach et al. (2025), for 400 million tokens
STEPS_UNTIL_DEAD = 1 / 20  # of all


@dataclass(frozen=True)
class Amount:
    """The amount of data that a training has.

    Attributes:
        images: Number of images.
        tokens_per_image: Rows of activations that each gives.
        d_in: Width of a row.
    """

    images: int
    tokens_per_image: int
    d_in: int

    @property
    def heldout_fraction(self) -> float:
        """Share of the images kept out of training: 2 %, or 20 images, or a fifth of fewer, but at least one image."""
        share = min(max(HELDOUT_SHARE, HELDOUT_IMAGES / self.images), LARGEST_HELDOUT)
        return max(share, 1 / self.images)

    @property
    def tokens(self) -> int:
        """Rows to train on."""
        return (self.images - round(self.heldout_fraction * self.images)) * self.tokens_per_image


def fit(amount: Amount, effort: Effort = "normal") -> dict[str, Any]:
    """Chooses the settings of an SAE's training, as :class:`cbsae_hub.trainers.config.SAETrainConfig` has them.

    The reference recipe's are for 400 million tokens: of 40,000 tokens, most of its neurons would never be used, and
    none would ever count as dead. The choice was made on 600 and on 4,608 pictures (``benchmarks/fit.py``); it looks at
    sizes only, never at what the images show.

    Args:
        amount: The data.
        effort: "quick" sees a quarter of the tokens, "thorough" four times as many.
    """
    least = min(LEAST_TOKENS, LARGEST_PASSES * amount.tokens)
    total = EFFORT[effort] * max(least, PASSES * amount.tokens)
    batch = min(_power_of_two(math.sqrt(total) / 2), 4096, _power_of_two(amount.tokens / 2))
    steps = max(100, round(total / batch))
    neurons = _power_of_two(min(amount.tokens / TOKENS_PER_NEURON, LARGEST_EXPANSION * amount.d_in, amount.images))
    neurons = max(neurons, 64)
    return {
        "d_sae": neurons,
        "k": min(max(4, round(0.7 * math.sqrt(amount.d_in))), neurons // 16),
        "steps": steps,
        "batch_size": batch,
        "lr": "auto_paper",
        "warmup_steps": steps // 20,
        "decay_start": steps * 7 // 10,
        "threshold_start": min(1000, steps // 2),
        "dead_after_tokens": math.ceil(steps * STEPS_UNTIL_DEAD) * batch,
        "heldout_fraction": round(amount.heldout_fraction, 4),
        "log_every": max(1, steps // 50),
        "eval_every": max(1, steps // 4),
        "checkpoint_every": max(1, steps // 10),
    }


def fit_bottleneck(amount: Amount, effort: Effort = "normal") -> dict[str, Any]:
    """Chooses the settings of a bottleneck's training, as :class:`cbsae_hub.trainers.config.CBSAETrainConfig` has them.

    It starts from a regression in closed form, so that few steps suffice.

    Args:
        amount: The data.
        effort: See :func:`fit`.
    """
    steps = max(50, round(300 * EFFORT[effort]))
    return {
        "steps": steps,
        "batch_size": min(_power_of_two(amount.tokens / 2), 4096),
        "start": "ridge",
        "unit_rows": True,
        "reconstruction_moves_encoder": False,
        "heldout_fraction": round(amount.heldout_fraction, 4),
        "log_every": max(1, steps // 20),
        "eval_every": steps,
        "checkpoint_every": max(1, steps // 4),
    }


def _power_of_two(number: float) -> int:
    """The power of two nearest to a number, by ratio; at least 1."""
    return 2 ** max(0, round(math.log2(max(number, 1.0))))
