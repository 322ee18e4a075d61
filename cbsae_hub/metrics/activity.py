"""Activity of neurons on a stream of tokens: density, strength, L0, and the share of the input that the SAE keeps."""

import math

import torch
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric
from cbsae_hub.models.explained_variance import explained_variance

BINS_PER_OCTAVE = 16
OCTAVES = 40  # from 2^-20 to 2^20
SHOWN_BINS_PER_OCTAVE = 4  # for histograms in tables and on the page
DENSE, RARE = 0.1, 1e-4


class NeuronActivity(StreamingMetric):
    """Counts and quantiles of each neuron's positive activations, over tokens.

    Quantiles are read from a histogram with 16 bins an octave: they are right to 2.2 %.

    Args:
        neurons: Number of neurons.
    """

    histogram: Tensor
    largest: Tensor
    tokens: Tensor

    def __init__(self, neurons: int):
        super().__init__()
        self.neurons = neurons
        self.add_sums(torch.int64, histogram=(neurons, BINS_PER_OCTAVE * OCTAVES), tokens=())
        self.add_state("largest", torch.zeros(neurons), dist_reduce_fx="max")

    def update(self, values: Tensor, neurons: Tensor) -> None:
        """Adds tokens; ``values`` and ``neurons`` ``[tokens, K]`` as from ``SAE.encode_sparse``: 0 is inactive."""
        self.tokens += len(values)
        active = values > 0
        strengths, owner = values[active].float(), neurons[active]
        bins = ((strengths.log2() + OCTAVES / 2) * BINS_PER_OCTAVE).floor().long()
        flat = owner * self.histogram.shape[1] + bins.clamp(0, self.histogram.shape[1] - 1)
        self.histogram.view(-1).index_add_(0, flat, torch.ones_like(flat))
        self.largest.scatter_reduce_(0, owner, strengths, "amax")

    def compute(self) -> dict[str, Tensor]:
        """The figures of each neuron, ``[neurons]`` unless stated otherwise.

        Returns:
            ``density`` (share of tokens), ``max``, quantiles ``p50`` and ``p99`` of positive activations (NaN: none),
            and ``histogram`` ``[neurons, bins]``: how many of those lie in each quarter of an octave from 2^-20 on. The
            first and the last bin hold everything beyond them, too.
        """
        counts = self.histogram.sum(1)
        return {
            "density": counts / self.tokens.clamp_min(1),
            "max": self.largest,
            "p50": self._quantile(0.50, counts),
            "p99": self._quantile(0.99, counts),
            "histogram": self.histogram.unflatten(1, (SHOWN_BINS_PER_OCTAVE * OCTAVES, -1)).sum(2),
        }

    def _quantile(self, q: float, counts: Tensor) -> Tensor:
        place = (self.histogram.cumsum(1) < (q * counts)[:, None]).sum(1)
        middle = 2.0 ** ((place + 0.5) / BINS_PER_OCTAVE - OCTAVES / 2)
        return torch.where(counts > 0, torch.minimum(middle, self.largest), torch.nan)


class ActiveLatents(StreamingMetric):
    """Number of active latents: L0 as a histogram over tokens, and its mean at each place in the image.

    Args:
        d_sae: Number of neurons.
        tokens: Tokens an image.
    """

    histogram: Tensor
    by_token: Tensor
    images: Tensor

    def __init__(self, d_sae: int, tokens: int):
        super().__init__()
        self.add_sums(torch.int64, histogram=d_sae + 1, by_token=tokens, images=())

    def update(self, active: Tensor) -> None:
        """Adds images: ``[images, tokens]``, the number of latents that are active by the inference rule."""
        self.histogram += torch.bincount(active.flatten(), minlength=len(self.histogram))
        self.by_token += active.sum(0)
        self.images += len(active)

    def compute(self) -> dict[str, Tensor]:
        """``histogram [d_sae + 1]``, tokens with 0, 1, ... active latents; ``by_token [tokens]``, the mean."""
        return {"histogram": self.histogram, "by_token": self.by_token / self.images}


class Reconstruction(StreamingMetric):
    """Explained variance, cosine and L0 over tokens.

    The first is :func:`cbsae_hub.models.explained_variance.explained_variance`.

    Args:
        d_in: Width of the activations.
    """

    total: Tensor
    squares: Tensor
    errors: Tensor
    cosines: Tensor
    active: Tensor
    tokens: Tensor

    def __init__(self, d_in: int):
        super().__init__()
        self.add_sums(torch.float64, total=d_in, squares=(), errors=(), cosines=(), active=())
        self.add_sums(torch.int64, tokens=())

    def update(self, x: Tensor, reconstruction: Tensor, active: Tensor) -> None:
        """Adds tokens: ``x`` and ``reconstruction [tokens, d_in]``, and the number of active latents, ``[tokens]``."""
        x, reconstruction = x.double(), reconstruction.double()
        self.total += x.sum(0)
        self.squares += x.square().sum()
        self.errors += (x - reconstruction).square().sum()
        self.cosines += torch.nn.functional.cosine_similarity(x, reconstruction).sum()
        self.active += active.sum()
        self.tokens += len(x)

    def compute(self) -> dict[str, float]:
        """``explained_variance``, ``cosine``, ``l0``; NaN without tokens or variance."""
        n = self.tokens.double()
        return {
            "explained_variance": explained_variance(self.total, self.squares, self.errors, self.tokens),
            "cosine": float(self.cosines / n),
            "l0": float(self.active / n),
        }


def occupied_bins(histogram: Tensor) -> tuple[list[int], float]:
    """A neuron's histogram ``[bins]``, a row of that of :class:`NeuronActivity`, without the empty bins at both ends.

    Returns:
        Counts, and the lower edge of the first of their bins; each is ``2 ** (1 / SHOWN_BINS_PER_OCTAVE)`` times as
        wide as the one before. Nothing and NaN if all are empty.
    """
    occupied = histogram.nonzero()[:, 0].tolist()
    if not occupied:
        return [], math.nan
    edge = 2.0 ** (occupied[0] / SHOWN_BINS_PER_OCTAVE - OCTAVES / 2)
    return histogram[occupied[0] : occupied[-1] + 1].tolist(), edge


def status(token_density: float, image_density: float) -> str:
    """A neuron's state by how often it fires: "dead", "rare" (< 1e-4 of tokens), "dense" (> 10 %) or "alive"."""
    if image_density == 0:
        return "dead"
    if token_density < RARE:
        return "rare"
    return "dense" if token_density > DENSE else "alive"
