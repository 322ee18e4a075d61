"""Which latents of a global batch are active in training, found without sorting them all."""

import math

import torch
from torch import Tensor

from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.processes import Processes

# Candidates are what exceeds the last batch's smallest active latent times this. More of them cost little, too few
# mean a search among all.
MARGIN = 0.95


class Selector:
    """Selects as ``sae.activation_function.select`` does, over the batches of all processes together.

    For batch_topk the smallest latent that was active a step ago tells where to look: entries above a part of
    it are few, and contain the answer if there are enough of them. If not, all entries are searched.

    Attributes:
        smallest: The smallest active latent of the last batch, over all processes; 0 before the first.
    """

    def __init__(self, sae: SAE, processes: Processes):
        self.activation, self.k, self.d_sae = sae.activation, sae.k, sae.d_sae
        self.processes = processes
        self.smallest = 0.0

    def select(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The active latents of a batch.

        Args:
            hidden: ``[n, d_sae]``, contiguous: this process's products before the ReLU.

        Returns:
            ``(positions, values)``: flat positions ``token * d_sae + neuron``, ascending, and the latents there,
            all positive. Over all processes, batch_topk selects ``k`` per token on average.
        """
        if self.activation == "batch_topk":
            return self._select_of_batch(hidden.flatten())
        return self._select_per_token(hidden)

    def _select_per_token(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        values, neurons = hidden.topk(min(self.k, self.d_sae), sorted=False)
        firsts = self.d_sae * torch.arange(len(hidden), device=hidden.device)
        positions = (neurons + firsts[:, None])[values > 0].sort().values
        return positions, hidden.flatten()[positions]

    def _select_of_batch(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        wanted = self.k * (len(flat) // self.d_sae) * self.processes.count
        candidates = _true_positions(flat > MARGIN * self.smallest)
        if self.processes.sum_(torch.tensor([len(candidates)], device=flat.device)).item() < wanted:
            candidates = _true_positions(flat > 0)
        values = flat[candidates]
        keep = self._largest(values, wanted)
        positions, values = candidates[keep], values[keep]
        smallest = values.float().min() if len(values) else torch.tensor(torch.inf, device=flat.device)
        smallest = self.processes.min_(smallest).item()
        self.smallest = smallest if math.isfinite(smallest) else 0.0
        return positions, values

    def _largest(self, values: Tensor, wanted: int) -> Tensor:
        """Mask of those among the ``wanted`` largest values of all processes; of equal ones the first are kept."""
        contenders = values
        if self.processes.count > 1 and len(values) > wanted:
            contenders = values.topk(wanted, sorted=False).values
        everyone = torch.cat(self.processes.gather(contenders))
        if len(everyone) < wanted:
            return torch.ones_like(values, dtype=torch.bool)
        bound = everyone.kthvalue(len(everyone) - wanted + 1).values
        keep = values > bound
        missing = wanted - int((everyone > bound).sum())
        ties = self.processes.gather((values == bound).nonzero().squeeze(1))
        before = sum(len(positions) for positions in ties[: self.processes.rank])
        keep[ties[self.processes.rank][: max(0, missing - before)]] = True
        return keep


def _true_positions(mask: Tensor) -> Tensor:
    """Positions of what is set in a vector, ascending."""
    if len(mask) % 8:
        return mask.nonzero().squeeze(1)
    # Few are set: eight at a time are looked at as one integer, which is several times faster.
    words = mask.view(torch.int64).nonzero()
    inside = mask.view(-1, 8)[words.squeeze(1)]
    return (8 * words + torch.arange(8, device=mask.device))[inside]
