"""MonoSemanticity: how alike a judge finds the images on which a neuron is active.

Source: Pach et al., Sparse autoencoders learn monosemantic features in vision-language models, 2025, eq. 5 to 9.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.metrics.latents import check_batch, entries_of, transposed_product
from cbsae_hub.metrics.streaming import StreamingMetric

# Below this share of the terms that it is the difference of, the weight of all pairs is what rounding left of zero.
NO_PAIRS = 1e-12


def monosemanticity_score(latents: Tensor, embeddings: Tensor) -> Tensor:
    """MonoSemanticity of every neuron: the mean cosine of pairs of images, weighted by both activations.

    ``MS = sum_{i<m} a_i a_m s_im / sum_{i<m} a_i a_m`` with ``a`` the activations less their minimum over the images
    and ``s`` the cosine of the images' embeddings. Dividing ``a`` by its range, as the paper does, changes nothing.
    With ``S1 = sum a``, ``S2 = sum a^2`` and ``p = sum a_i e_i`` of unit embeddings this is
    ``(|p|^2 - S2) / (S1^2 - S2)``, exactly: no pair is ever looked at.

    Args:
        latents: ``[images, neurons]``, image-level, of any sign, dense or sparse COO.
        embeddings: ``[images, d]`` of the judge, of any norm but 0.

    Returns:
        ``[neurons]`` float64 in -1..1. NaN is undefined: a neuron that is constant, or above its minimum on fewer than
        two images.

    Raises:
        ValueError: If lengths differ, something is not finite, or an embedding is zero.
    """
    metric = MonosemanticityScore(latents.shape[1], embeddings.shape[1]).to(latents.device)
    metric.update(latents, embeddings)
    return metric.compute()


class MonosemanticityScore(StreamingMetric):
    """:func:`monosemanticity_score` over a stream of image batches, in any order, on any number of processes.

    Sums are float64. State: 8 bytes a neuron and embedding dimension; a sparse batch costs what is active in it.

    Args:
        neurons: Number of neurons.
        embedding_dim: Width of the judge's embeddings.
    """

    weighted: Tensor
    total: Tensor
    squares: Tensor
    lowest: Tensor
    highest: Tensor
    stored: Tensor
    everything: Tensor
    images: Tensor

    def __init__(self, neurons: int, embedding_dim: int):
        super().__init__()
        self.neurons = neurons
        self.add_sums(torch.float64, weighted=(neurons, embedding_dim), everything=embedding_dim)
        self.add_sums(torch.float64, total=neurons, squares=neurons)
        self.add_sums(torch.int64, stored=neurons, images=())
        infinite = torch.full((neurons,), torch.inf, dtype=torch.float64)
        self.add_state("lowest", infinite, dist_reduce_fx="min")
        self.add_state("highest", -infinite, dist_reduce_fx="max")

    def update(self, latents: Tensor, embeddings: Tensor) -> None:
        """Adds a batch: latents ``[images, neurons]``, dense or sparse COO, and embeddings ``[images, d]``.

        Raises:
            ValueError: See :func:`monosemanticity_score`.
        """
        check_batch(latents, self.neurons, embeddings=embeddings)
        embeddings = embeddings.double()
        if (embeddings == 0).all(1).any():
            raise ValueError("an embedding is zero: it has no direction to compare")
        units = F.normalize(embeddings, dim=1)
        latents = latents.coalesce().double() if latents.is_sparse else latents.double()
        touched, weighted = transposed_product(latents, units)
        self.weighted.index_add_(0, touched, weighted)
        self.everything += units.sum(0)
        self.images += len(units)
        if latents.is_sparse:
            _, neurons, values = entries_of(latents)
            self.total.index_add_(0, neurons, values)
            self.squares.index_add_(0, neurons, values.square())
            self.lowest.scatter_reduce_(0, neurons, values, "amin")
            self.highest.scatter_reduce_(0, neurons, values, "amax")
            self.stored += torch.bincount(neurons, minlength=self.neurons)
        elif len(latents):
            self.total += latents.sum(0)
            self.squares += torch.einsum("in,in->n", latents, latents)
            self.lowest = torch.minimum(self.lowest, latents.amin(0))
            self.highest = torch.maximum(self.highest, latents.amax(0))
            self.stored += len(latents)

    def compute(self) -> Tensor:
        """Scores ``[neurons]`` float64; NaN is undefined."""
        silent = self.stored < self.images  # on some image, where the activation is 0
        low = torch.where(silent, self.lowest.clamp_max(0), self.lowest)
        high = torch.where(silent, self.highest.clamp_min(0), self.highest)
        # Subtracting the minimum afterwards: the sums of a - low in terms of those of a.
        weighted = torch.addcmul(self.weighted, low[:, None], self.everything, value=-1) if low.any() else self.weighted
        total = self.total - self.images * low
        squares = self.squares - 2 * low * self.total + self.images * low.square()
        pairs = total.square() - squares
        shift = self.images * low.abs()
        terms = total.abs() * (self.total.abs() + shift) + self.squares + low.abs() * (2 * self.total.abs() + shift)
        score = (torch.einsum("ne,ne->n", weighted, weighted) - squares) / pairs
        return torch.where((pairs > NO_PAIRS * terms) & (high > low), score, torch.nan)

    def population(self) -> float:
        """Mean cosine of all pairs of images: the score of a neuron that tells nothing apart; NaN with one image."""
        with self.sync_context():
            n = int(self.images)
            return (float(self.everything.square().sum()) - n) / (n * n - n) if n > 1 else float("nan")
