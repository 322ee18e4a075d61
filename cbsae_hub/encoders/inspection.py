"""The neurons that fire on one image."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.models import CBSAE, SAE, SparseLatents


@dataclass(frozen=True)
class Inspection:
    """The neurons that fire on one image, and how much of its activations the SAE explains."""

    latents: np.ndarray  # [tokens, neurons] of the neurons in `active`
    active: np.ndarray  # ids of the neurons that fire anywhere, strongest mean first
    explained: float  # share of the activations' squared distance from the SAE's centre that the reconstruction keeps
    cosine: float  # mean, of activations and reconstruction
    token_error: np.ndarray  # [tokens], share of each token's squared distance from the centre that is lost

    @classmethod
    @torch.inference_mode()
    def of(cls, sae: SAE | CBSAE, x: Tensor) -> "Inspection":
        """Runs the SAE on the activations of one image, ``[tokens, d_in]``."""
        values, owners = sae.encode_sparse(x)
        decoded = sae.decode_sparse(values, owners, like=x)
        error, size = (x - decoded).square().sum(1), (x - sae.origin(like=x)).square().sum(1)
        values, owners = sae.only_active(SparseLatents(values, owners))
        active = owners[values > 0].unique()
        latents = torch.zeros(len(x), sae.d_latent).scatter_add_(1, owners, values.float())[:, active]
        order = latents.mean(0).argsort(descending=True, stable=True)
        return cls(
            latents=latents[:, order].numpy(),
            active=active[order].numpy(),
            explained=float(1 - error.sum() / size.sum()),
            cosine=float(torch.nn.functional.cosine_similarity(x, decoded).mean()),
            token_error=(error / size.clamp_min(1e-12)).numpy(),
        )
