"""MonoSemanticity as a loss: neurons shall be active on tokens that are alike.

Nasiri-Sarvi et al., "MonoLoss: a training objective for interpretable monosemantic representations", 2026 (arXiv
2602.12403), who found that the score of all pairs takes one pass. The judge is the SAE's own input.

Of a neuron with latents ``a_i`` on tokens of unit direction ``e_i``, with ``S1 = sum a``, ``S2 = sum a^2`` and
``p = sum a_i e_i``, the score is ``N / D = (|p|^2 - S2) / (S1^2 - S2)``, and its gradient with respect to ``a_i``

    2 (p . e_i - a_i) / D - 2 (S1 - a_i) N / D^2
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.products import Entries, product, sampled_products


class MonoLoss(NamedTuple):
    """The loss of a global batch, and its gradient."""

    loss: Tensor
    """One less the mean score of the neurons that are active on two tokens or more; 0 if there are none."""
    gradient: Tensor
    """With respect to each active latent of this process."""


@torch.no_grad()
def mono_loss(
    x: Tensor, tokens: Tensor, neurons: Tensor, values: Tensor, d_sae: int, processes: Processes | None = None
) -> MonoLoss:
    """MonoLoss of active latents; a pair of tokens is never looked at.

    Latents count as they are: the smallest of a sparse one, which MonoSemanticity subtracts, is 0. Silent ones get no
    gradient, so that it moves jumprelu's thresholds by active latents alone.

    Args:
        x: ``[n, d]``, this process's share of the batch.
        tokens: Rows of ``x`` of the active latents, ``[entries]``, ascending.
        neurons: Their neurons, ``[entries]``.
        values: Their values, ``[entries]``, positive.
        d_sae: Number of neurons.
        processes: Default one.
    """
    processes, units = processes or Processes(), F.normalize(x, dim=1)
    order = neurons.argsort(stable=True)
    pull = product(Entries.sorted(neurons[order], tokens[order], values[order], d_sae), units)
    sums = values.new_zeros(3, d_sae)
    for row, part in zip(sums, (torch.ones_like(values), values, values.square())):
        row.index_add_(0, neurons, part)
    processes.sum_(pull)
    count, total, squares = processes.sum_(sums)
    scored = count >= 2
    if not scored.any():
        return MonoLoss(values.new_zeros(()), torch.zeros_like(values))
    above = pull.square().sum(1) - squares
    below = torch.where(scored, total.square() - squares, 1.0)
    number = scored.sum()
    entries = Entries.sorted(tokens, neurons, values, len(x))
    towards = sampled_products(entries, units, pull) - values
    score = (above / below)[neurons]
    gradient = 2 * (towards - (total[neurons] - values) * score) / below[neurons]
    return MonoLoss(1 - (above / below)[scored].mean(), torch.where(scored[neurons], -gradient / number, 0.0))
