"""The training loss of an SAE."""

from typing import NamedTuple

from torch import Tensor

from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig


class Loss(NamedTuple):
    """A training loss and its parts, as means over the global batch."""

    total: Tensor
    reconstruction: Tensor
    """Squared error, over Matryoshka groups as ``matryoshka_reduction`` says."""
    penalty: Tensor
    """L1 or L0, without its coefficient; 0 for topk and batch_topk."""
    auxiliary: Tensor
    """Of dead neurons (topk, batch_topk, without ``auxk_alpha``) or of the gate (gated)."""


def group_weight(config: SAETrainConfig, groups: int) -> float:
    """Weight of each Matryoshka group's mean squared error in the loss."""
    power = {"sum": 0, "mean": 1, "dictionary_learning": 2}[config.matryoshka_reduction]
    return groups**-power


def penalised_loss(sae: SAE, x: Tensor, config: SAETrainConfig) -> tuple[Loss, Tensor]:
    """The loss of relu, jumprelu and gated SAEs, for autograd; every latent may be active.

    Args:
        sae: The autoencoder.
        x: ``[n, d_in]``.
        config: Weights of the loss terms.

    Returns:
        The loss, and the latents ``[n, d_sae]``.
    """
    latents, penalty, auxiliary = sae.train_latents(x)
    residuals = x - sae.prefix_reconstructions(latents)
    weight = group_weight(config, len(residuals))
    reconstruction = weight * residuals.square().sum(-1).mean(-1).sum()
    total = reconstruction + config.sparsity_coefficient * penalty + auxiliary
    return Loss(total, reconstruction, penalty, auxiliary), latents
