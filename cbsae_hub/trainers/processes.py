"""Sums and the like over the processes of a run; with one process they cost nothing."""

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor


class Processes:
    """The processes among which a global batch is split.

    Args:
        accelerator: The run's; None for a single process.
    """

    def __init__(self, accelerator: Accelerator | None = None):
        self.count = accelerator.num_processes if accelerator else 1
        self.rank = accelerator.process_index if accelerator else 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place where it is contiguous; returns the sum."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def min_(self, tensor: Tensor) -> Tensor:
        """Smallest over all processes, element by element."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Vectors of all processes, which may differ in length, in order of rank."""
        if self.count == 1:
            return [tensor]
        lengths = tensor.new_zeros(self.count, dtype=torch.int64)
        lengths[self.rank] = len(tensor)
        lengths = self.sum_(lengths).tolist()
        padded = torch.nn.functional.pad(tensor, (0, max(lengths) - len(tensor)))
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return [part[:length] for part, length in zip(parts, lengths)]

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp) -> Tensor:
        if self.count > 1:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor, operation)
        return tensor
