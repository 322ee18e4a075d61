"""Absorption: a neuron of a kind is silent on one of its concepts, because that concept's own neuron writes the kind.

After SAEBench's absorption fraction (Karvonen et al., 2025; Chanin et al., A is for absorption, 2024), in which the
kind of a word is its first letter. Here kinds are those of a true hierarchy, as dog is of corgi.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from cbsae_hub.metrics.collateral import ConceptProbes
from cbsae_hub.metrics.latents import check_batch, check_rows
from cbsae_hub.metrics.splitting import main_neurons
from cbsae_hub.metrics.streaming import StreamingMetric

LEAST_COSINE, LEAST_SHARE, ABSORBERS = 0.1, 0.4, 3  # SAEBench's


@dataclass
class AbsorptionScores:
    """Shares of each kind that are written by other neurons than its own, where its own ones fall short.

    Attributes:
        fraction: ``[kinds]``, the mean over images that show the kind: 0 where nothing is absorbed, 1 where the kind's
            own neurons are silent and others write it.
        by_concept: ``[kinds, concepts]``, the same over the images that show a concept of the kind.
        main: The kind's own neurons.

    NaN stands for kinds that no image shows or that have no neuron, and for concepts that are not of the kind.
    """

    fraction: np.ndarray
    by_concept: np.ndarray
    main: list[list[int]]


def kinds_shown(labels: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The kinds that images show, ``[images, kinds]`` bool: those of any of their concepts.

    Args:
        labels: ``[images, concepts]`` bool.
        kinds: ``[kinds, concepts]`` bool, the concepts of each kind.
    """
    return labels.astype(np.int64) @ kinds.T.astype(np.int64) > 0


def absorption(
    activations: Tensor,
    latents: Tensor,
    rows: Tensor,
    labels: np.ndarray,
    kinds: np.ndarray,
    origin: Tensor | None = None,
    seed: int = 0,
) -> AbsorptionScores:
    """Finds each kind's direction and own neurons on one half of the images, and looks for absorption on the other.

    A kind's direction is that of a ridge regression of its label, see
    :class:`cbsae_hub.metrics.collateral.ConceptProbes`; its own neurons are those of
    :func:`cbsae_hub.metrics.splitting.main_neurons`.

    Args:
        activations: Image-level, ``[images, d]``.
        latents: Image-level, ``[images, neurons]``, dense or sparse (COO).
        rows: Decoder rows ``[neurons, d]``.
        labels: ``[images, concepts]`` bool.
        kinds: ``[kinds, concepts]`` bool, the concepts of each kind.
        origin: The SAE's ``b_dec`` ``[d]``; null is 0.
        seed: Seed of the draw of the first half.

    Raises:
        ValueError: See :class:`Absorption`; or there are fewer than two images.
    """
    present = kinds_shown(labels, kinds)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    probes = ConceptProbes(len(kinds), activations.shape[1])
    probes.update(activations[first], torch.from_numpy(present)[first])
    dense = latents.to_dense() if latents.is_sparse else latents
    main = main_neurons(sparse.csr_matrix(dense[first].cpu().numpy()), present[first.numpy()])
    metric = Absorption(rows, probes.compute().weights.T, main, kinds, origin)
    metric.update(activations[second], dense[second], torch.from_numpy(labels)[second])
    return metric.compute()


class Absorption(StreamingMetric):
    """:func:`absorption` over a stream of batches, with directions and own neurons from other images.

    An image's activation has the projection ``(x - origin) . p`` on a kind's direction p, to which active neuron i adds
    ``z_i (d_i . p)``. The kind is absorbed if its own neurons add less than the whole projection, and the up to three
    other neurons that add most, of those with a cosine to p of at least 0.1, at least 0.4 of it. What the image then
    scores is their share of what they and the kind's own neurons add, else 0.

    Args:
        rows: Decoder rows ``[neurons, d]``.
        directions: Directions of the kinds, ``[kinds, d]``, of any length.
        main: The kinds' own neurons.
        kinds: ``[kinds, concepts]`` bool, the concepts of each kind.
        origin: The SAE's ``b_dec`` ``[d]``; null is 0.

    Raises:
        ValueError: If widths or numbers of kinds differ, or decoder rows are not finite.
    """

    sums: Tensor
    counts: Tensor
    shares: Tensor
    images: Tensor

    def __init__(
        self,
        rows: Tensor,
        directions: Tensor,
        main: Sequence[Sequence[int]],
        kinds: np.ndarray,
        origin: Tensor | None = None,
    ):
        super().__init__()
        if rows.shape[1] != directions.shape[1] or not len(directions) == len(main) == len(kinds):
            raise ValueError(
                f"decoder rows {tuple(rows.shape)} and directions {tuple(directions.shape)} must have one width, and "
                f"directions, own neurons ({len(main)}) and kinds ({len(kinds)}) one number"
            )
        if not rows.isfinite().all():
            raise ValueError("decoder rows are NaN or infinite")
        self.main = [list(group) for group in main]
        self._directions = F.normalize(directions.double(), dim=1)
        self._origin = torch.zeros(rows.shape[1]) if origin is None else origin.detach().cpu()
        self._writes = rows.detach().double().cpu() @ self._directions.T.cpu()
        self._cosines = F.normalize(rows.detach().double().cpu(), dim=1) @ self._directions.T.cpu()
        self._kinds = torch.from_numpy(np.asarray(kinds, dtype=bool))
        self.add_sums(torch.float64, sums=self._kinds.shape, shares=len(kinds))
        self.add_sums(torch.int64, counts=self._kinds.shape, images=len(kinds))

    def update(self, activations: Tensor, latents: Tensor, labels: Tensor) -> None:
        """Adds images.

        Args:
            activations: Image-level, ``[images, d]``.
            latents: Image-level, ``[images, neurons]``, dense or sparse (COO).
            labels: ``[images, concepts]`` bool.

        Raises:
            ValueError: If lengths differ, or something is not finite.
        """
        check_rows("activations", activations, len(self._origin), labels=labels)
        check_batch(latents, len(self._writes), labels=labels)
        dense = (latents.to_dense() if latents.is_sparse else latents).double().cpu()
        whole = (activations.double().cpu() - self._origin) @ self._directions.T.cpu()
        labels = labels.bool().cpu()
        for kind, main in enumerate(self.main):
            concepts = labels & self._kinds[kind]
            shows = concepts.any(1)
            if not main or not shows.any():
                continue
            added = dense[shows] * self._writes[:, kind]
            own = added[:, main].sum(1)
            added[:, main] = 0
            added[:, self._cosines[:, kind] < LEAST_COSINE] = 0
            others = added.clamp_min(0).topk(min(ABSORBERS, added.shape[1]), dim=1).values.sum(1)
            projection = whole[shows, kind]
            absorbed = (projection > 0) & (own < projection) & (others >= LEAST_SHARE * projection) & (others > 0)
            share = torch.where(absorbed, others / (others + own.clamp_min(0)), 0.0)
            self.sums[kind] += share @ concepts[shows].double()
            self.counts[kind] += concepts[shows].sum(0)
            self.shares[kind] += share.sum()
            self.images[kind] += int(shows.sum())

    def compute(self) -> AbsorptionScores:
        """The scores."""
        fraction, by_concept = (
            torch.where(count > 0, part / count.clamp_min(1), torch.nan).cpu().numpy()
            for part, count in ((self.shares, self.images), (self.sums, self.counts))
        )
        return AbsorptionScores(fraction, by_concept, self.main)
