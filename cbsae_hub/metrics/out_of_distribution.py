"""Scores that tell images of another kind from those that were trained on: the larger, the stranger.

Sources: reconstruction error of an SAE, Olson et al., 2025 (equation 6); the baselines, distance to the nearest class
(Lee et al., 2018) and maximum softmax probability (Hendrycks and Gimpel, 2017).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.metrics.ground_truth import ground_truth_scores
from cbsae_hub.models import SAE

RIDGE = 1e-3  # of the mean variance, added to the covariance: dimensions that hardly vary would decide otherwise
BLOCK = 65536


@dataclass(frozen=True)
class ImageErrors:
    """Figures of an SAE on each image, each the mean over its tokens: ``[images]``."""

    mse: Tensor
    """Squared error of the reconstruction, divided by ``d_in``."""
    l1: Tensor
    """Sum of the latents."""
    l0: Tensor
    """Number of active latents."""


@torch.no_grad()
def image_errors(sae: SAE, rows: Tensor, block: int = 1024) -> ImageErrors:
    """Runs an SAE on the activations of images, ``[images, tokens, d_in]``, ``block`` at once."""
    parts = []
    for x in rows.split(block):
        x = x.float()
        values, owners = sae.encode_sparse(x)
        error = (x - sae.decode_sparse(values, owners, like=x)).square().mean(-1)
        parts.append(torch.stack([error, values.abs().sum(-1), (values != 0).sum(-1).float()]).mean(2))
    return ImageErrors(*torch.cat(parts, 1).cpu())


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Share of the pairs of images in which the one from outside has the larger score; ties count half.

    Args:
        inside: ``[images]``, scores.
        outside: Likewise, of other images.
    """
    scores = torch.cat([inside, outside]).double().cpu().numpy()
    is_outside = np.arange(len(scores)) >= len(inside)
    return float(ground_truth_scores(scores[:, None], is_outside[:, None]).auroc[0, 0])


class NearestClass:
    """Squared Mahalanobis distance to the nearest class, whose covariance all classes share.

    Args:
        rows: ``[images, d_in]``, activations.
        targets: ``[images]`` int64, the class of each.
    """

    def __init__(self, rows: Tensor, targets: Tensor):
        counts = targets.bincount()
        means = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64)
        covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        for own, part in zip(targets.split(BLOCK), rows.split(BLOCK)):
            means.index_add_(0, own, part.double())
        means /= counts.clamp_min(1)[:, None]
        for own, part in zip(targets.split(BLOCK), rows.split(BLOCK)):
            centred = part.double() - means[own]
            covariance += centred.T @ centred / len(rows)
        ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        self._root = torch.linalg.cholesky(covariance + ridge)
        self._white = self._whitened(means[counts > 0])

    def _whitened(self, rows: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._root, rows.T, upper=False).T

    def __call__(self, rows: Tensor) -> Tensor:
        """Scores of other images ``[images, d_in] -> [images]``."""
        return torch.cdist(self._whitened(rows.double()), self._white).square().amin(1)


def unsureness(logits: Tensor) -> Tensor:
    """One minus the largest probability, ``[images, classes] -> [images]``."""
    return 1 - logits.softmax(1).amax(1)
