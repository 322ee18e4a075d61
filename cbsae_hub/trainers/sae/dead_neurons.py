"""Which neurons have stopped firing."""

import torch
from torch import Tensor

from cbsae_hub.trainers.processes import Processes


class DeadNeurons:
    """Counts tokens since each neuron last fired, over all processes.

    Args:
        d_sae: Number of neurons.
        after_tokens: A neuron is dead once it has not fired for so many tokens.
        processes: The processes that share each batch.
        device: Where to count.

    Attributes:
        silent_tokens: ``[d_sae]`` int64.
    """

    def __init__(
        self,
        d_sae: int,
        after_tokens: int,
        processes: Processes | None = None,
        device: torch.device | str = "cpu",
    ):
        self.after_tokens = after_tokens
        self.processes = processes or Processes()
        self.silent_tokens = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fired: Tensor, tokens: int) -> Tensor:
        """Takes in a batch.

        Args:
            fired: Ids of the neurons that are active in this process's share, repeated or not.
            tokens: Tokens in the global batch.

        Returns:
            Ids of the dead neurons, ascending, the same on every process.
        """
        if self.processes.count > 1:
            mask = torch.zeros_like(self.silent_tokens, dtype=torch.int32)
            mask[fired] = 1
            fired = self.processes.sum_(mask).nonzero().squeeze(1)
        self.silent_tokens += tokens
        self.silent_tokens[fired] = 0
        return self.dead

    @property
    def dead(self) -> Tensor:
        """Ids of the dead neurons, ascending."""
        return (self.silent_tokens >= self.after_tokens).nonzero().squeeze(1)

    @property
    def share(self) -> float:
        """Share of the neurons that are dead."""
        return len(self.dead) / len(self.silent_tokens)
