"""How well an SAE does on held-out activations."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from cbsae_hub.models.explained_variance import explained_variance
from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.processes import Processes


class Heldout(NamedTuple):
    """Figures of an SAE on held-out tokens, by the inference rule."""

    explained_variance: float
    """About the mean of the held-out tokens."""
    l0: float
    """Active latents per token."""
    silent_share: float
    """Share of the neurons that are active on none of these tokens."""
    tokens: int


@torch.no_grad()
def evaluate(sae: SAE, batches: Iterable[Tensor], processes: Processes | None = None) -> Heldout:
    """Evaluates an SAE in one pass, with sums in double precision.

    Args:
        sae: The autoencoder.
        batches: This process's share of the held-out tokens, ``[n, d_in]`` each, in the units of the SAE.
        processes: Over which the figures are taken.

    Raises:
        ValueError: If there are no tokens, or they do not vary.
    """
    processes = processes or Processes()
    device = sae.W_dec.device
    sums = torch.zeros(sae.d_in, dtype=torch.float64, device=device)
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # squares, squared errors, active, tokens
    fired = torch.zeros(sae.d_sae, dtype=torch.float64, device=device)
    for batch in batches:
        x = batch.to(device)
        values, indices = sae.encode_sparse(x)
        error = x.double() - sae.decode_sparse(values, indices, like=x).double()
        sums += x.double().sum(0)
        active = values > 0
        totals += torch.stack(
            [
                x.double().square().sum(),
                error.square().sum(),
                active.sum().double(),
                torch.tensor(float(len(x)), dtype=torch.float64, device=device),
            ]
        )
        fired[indices[active]] = 1
    for tensor in (sums, totals, fired):
        processes.sum_(tensor)
    squares, errors, active_count, tokens = totals.tolist()
    if tokens == 0:
        raise ValueError("no held-out tokens to evaluate on")
    explained = explained_variance(sums, squares, errors, tokens)
    if math.isnan(explained):
        raise ValueError("the held-out tokens do not vary, so no share of their variance can be explained")
    return Heldout(explained, active_count / tokens, (fired == 0).double().mean().item(), int(tokens))
