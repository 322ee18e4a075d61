"""The threshold that gives a wanted number of active latents, found exactly in two passes over the data."""

import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Positive float32 numbers are ordered as their bit patterns, so an order statistic is found by counting:
# first by the upper 15 bits (the sign is 0), then by the lower 16 bits within the bin that holds it.
_UPPER_BINS, _LOWER_BINS = 2**15, 2**16
# Chunks stay in the processor's cache, but have tokens enough for an efficient product with W_enc.
_CHUNK_SCORES, _CHUNK_TOKENS = 2**21, 256


def token_chunks(x: Tensor, d_sae: int) -> tuple[Tensor, ...]:
    """Splits ``[n, d_in]`` so that ``[tokens, d_sae]`` stays small; at least one chunk, possibly empty."""
    return x.split(max(_CHUNK_TOKENS, _CHUNK_SCORES // d_sae))


def exact_threshold(
    scores: Callable[[Tensor], Tensor],
    activations: Tensor | Iterable[Tensor] | Callable[[], Iterable[Tensor]],
    d_sae: int,
    target_l0: float,
    total: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> float:
    """A number with exactly ``round(target_l0 * n)`` of all positive scores above it.

    It lies half-way between two neighbouring scores, so that rounding elsewhere does not move a latent across. Equal
    scores there all stay out. Where fewer scores are positive, the answer is 0, with a warning.

    ``scores`` maps tokens ``[t, d_in]`` to non-negative scores ``[t, d_sae]``; ``total`` sums an int64 tensor over
    processes; the answer is a number of ``dtype``. The rest is as in :meth:`cbsae_hub.models.SAE.calibrate_threshold`.
    """
    if isinstance(activations, Iterator):
        raise ValueError("two passes are needed: give a tensor, a list, a DataLoader or a function, not an iterator")

    def score_bits() -> Iterator[Tensor]:
        batches = activations() if callable(activations) else activations
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            for chunk in token_chunks(batch.reshape(-1, batch.shape[-1]), d_sae):
                # Adding 0 turns -0.0 into 0.0.
                yield (scores(chunk).float() + 0.0).contiguous().view(torch.int32)

    upper_counts, tokens = _count_upper(score_bits(), total)
    if tokens == 0:
        raise ValueError("no activations to calibrate the threshold on")
    target = max(1, round(target_l0 * tokens))
    available = int(upper_counts.sum())
    if available <= target:
        logger.warning(
            "only %.4g latents per token are positive, %.4g were asked for: threshold 0", available / tokens, target_l0
        )
        return 0.0
    above = upper_counts.flip(0).cumsum(0).flip(0)  # scores in this bin or a higher one
    bins = [int((above >= rank).nonzero().max()) for rank in (target, target + 1)]
    lower_counts = _count_lower(score_bits(), bins, total)
    last_in, first_out = (
        _value(upper, lower, rank - int(above[upper] - upper_counts[upper]))
        for upper, lower, rank in zip(bins, lower_counts, (target, target + 1))
    )
    middle = float(torch.tensor((last_in + first_out) / 2, dtype=dtype))
    return middle if first_out <= middle < last_in else first_out


def _count_upper(batches: Iterator[Tensor], total: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """Counts of positive scores by upper bits, and the number of tokens."""
    counts = torch.zeros(_UPPER_BINS + 1, dtype=torch.int64)
    for bits in batches:
        counts[:-1] += torch.bincount(bits[bits > 0] >> 16, minlength=_UPPER_BINS).cpu()
        counts[-1] += len(bits)
    counts = total(counts)
    return counts[:-1], int(counts[-1])


def _count_lower(batches: Iterator[Tensor], bins: list[int], total: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """For each of the upper bins, counts of its scores by lower bits."""
    counts = torch.zeros(len(bins), _LOWER_BINS, dtype=torch.int64)
    for bits in batches:
        for row, upper in zip(counts, bins):
            row += torch.bincount(bits[(bits >> 16) == upper] & (_LOWER_BINS - 1), minlength=_LOWER_BINS).cpu()
    return list(total(counts))


def _value(upper: int, lower_counts: Tensor, rank: int) -> float:
    """The ``rank``-th largest score of an upper bin."""
    above = lower_counts.flip(0).cumsum(0).flip(0)
    lower = int((above >= rank).nonzero().max())
    return float(torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32))
