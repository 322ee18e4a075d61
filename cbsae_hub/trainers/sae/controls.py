"""Controls: SAEs that are nonsense by construction, made with the budget and the data of a real one.

A score that does not tell them from a trained SAE says nothing of training. The first three are those of Korznikov et
al., "Sanity checks for sparse autoencoders", 2026 (arXiv 2602.14111): trained as usual, but for a part that stays as it
was drawn. The others have nothing that gradients have found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.fits import PCA, Fit, KMeans, set_directions_

NEAR = 0.8
"""Cosine of a soft-frozen decoder row and the row that it was, at least."""


@dataclass(frozen=True)
class Control:
    """A difference from the usual training, which has none of these.

    Attributes:
        start: Sets the first matrices of an SAE with a seed.
        frozen: Names of parameters that no step changes.
        hold: Moves decoder rows back after every step; takes the rows and what they were at the start.
        fit: What finds the rows instead of gradients.
        end: Changes the trained SAE, with a seed, before its threshold is calibrated.
    """

    start: Callable[[SAE, int], None] | None = None
    frozen: tuple[str, ...] = ()
    hold: Callable[[Tensor, Tensor], None] | None = None
    fit: type[Fit] | None = None
    end: Callable[[SAE, int], None] | None = None


@torch.no_grad()
def keep_near_(rows: Tensor, start: Tensor, cosine: float = NEAR) -> None:
    """Moves each row that is farther from its start than a cosine to the nearest direction that is not.

    Args:
        rows: ``[neurons, d]``, unit; changed in place.
        start: Unit rows of the same shape.
        cosine: The smallest cosine that is allowed.
    """
    along = torch.linalg.vecdot(rows, start)
    far = along < cosine
    aside = F.normalize(rows[far] - along[far, None] * start[far], dim=1)
    rows[far] = F.normalize(cosine * start[far] + (1 - cosine**2) ** 0.5 * aside, dim=1)


@torch.no_grad()
def permute_decoder_(sae: SAE, seed: int) -> None:
    """Gives every neuron the decoder row of another one, none its own: latents stay, and stand for nothing."""
    order = torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed)).to(sae.W_dec.device)
    sae.W_dec[order] = sae.W_dec[order.roll(1)]


def raw_neurons_(sae: SAE, seed: int) -> None:
    """Makes two neurons of each dimension of the activations, upwards and downwards, for latents are positive."""
    axes = torch.eye(sae.d_in, device=sae.W_dec.device)
    set_directions_(sae, torch.cat([axes, -axes]))


def random_directions_(sae: SAE, seed: int) -> None:
    """Makes two neurons of each axis of a random rotation: raw neurons of a space without a privileged basis."""
    rotation = torch.linalg.qr(torch.randn(sae.d_in, sae.d_in, generator=torch.Generator().manual_seed(seed))).Q
    axes = rotation.T.to(sae.W_dec.device)
    set_directions_(sae, torch.cat([axes, -axes]))


CONTROLS: dict[str | None, Control] = {
    None: Control(),
    "frozen_decoder": Control(frozen=("W_dec",)),
    "soft_frozen_decoder": Control(hold=keep_near_),
    "frozen_encoder": Control(frozen=("W_enc",)),
    "permuted_decoder": Control(end=permute_decoder_),
    "untrained": Control(),
    "raw_neurons": Control(start=raw_neurons_),
    "random_directions": Control(start=random_directions_),
    "pca": Control(fit=PCA),
    "kmeans": Control(fit=KMeans),
}
"""By the setting ``control``; None is the usual training."""


def make_sae(config: SAETrainConfig, d_in: int, **description: Any) -> SAE:
    """The SAE that a training with these settings starts from.

    A control that is not trained by gradients is batch_topk, whatever ``activation`` says, and has no groups: it is as
    sparse as ``k`` says.

    Args:
        config: The settings.
        d_in: Width of the activations.
        **description: Arguments of :class:`SAE` that say what the activations are.
    """
    sae = SAE(
        d_in,
        config.neurons(d_in),
        config.activation if config.descends else "batch_topk",
        config.k,
        config.group_sizes(d_in),
        bandwidth=config.bandwidth,
        threshold_per_neuron=config.threshold_per_neuron and config.descends,
        seed=config.seed,
        **description,
    )
    if (start := CONTROLS[config.control].start) is not None:
        start(sae, config.seed)
    return sae
