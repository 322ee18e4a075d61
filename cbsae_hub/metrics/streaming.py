"""A score over a stream of batches.

It works as ``torchmetrics.Metric`` does, with the same names. Importing torchmetrics imports its scores of audio, text
and pictures as well, and with them torchvision, scipy, matplotlib and torch's compiler: half of what a command waits
for before it starts.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

_REDUCE = {"sum": lambda both: both.sum(0), "max": lambda both: both.amax(0), "min": lambda both: both.amin(0)}


class StreamingMetric(nn.Module):
    """Sums that ``update`` adds to, from which ``compute`` makes the score.

    The sums of shards merge in any order (:meth:`merge_state`). Where ``torch.distributed`` runs, ``compute`` merges
    the sums of all processes, and each process gets the same score.
    """

    update: Callable[..., None]
    compute: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self._defaults: dict[str, Tensor | list[Tensor]] = {}
        self._reduce: dict[str, str | Callable[[Tensor], Tensor]] = {}
        self._over_all = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Makes ``update`` and ``compute`` run without gradients, and ``compute`` on the sums of all processes."""
        super().__init_subclass__(**options)
        if "update" in cls.__dict__:
            cls.update = torch.no_grad()(cls.update)
        if "compute" in cls.__dict__:
            compute = cls.compute

            @functools.wraps(compute)
            def over_all(self: "StreamingMetric", *arguments: Any, **options: Any) -> Any:
                with torch.no_grad(), self.sync_context():
                    return compute(self, *arguments, **options)

            cls.compute = over_all

    def add_state(
        self,
        name: str,
        default: Tensor | list[Tensor],
        dist_reduce_fx: Literal["sum", "max", "min", "cat"] | Callable[[Tensor], Tensor],
    ) -> None:
        """Declares a sum.

        Args:
            name: Name of the attribute.
            default: Value before the first batch: a tensor, or an empty list that ``update`` appends tensors to.
            dist_reduce_fx: The reduction of two values to one. "cat" is for lists. A function gets both, stacked.
        """
        self._defaults[name], self._reduce[name] = default, dist_reduce_fx
        if isinstance(default, Tensor):
            self.register_buffer(name, default.clone(), persistent=False)
        else:
            setattr(self, name, [])

    def add_sums(self, dtype: torch.dtype, **shapes: int | tuple[int, ...]) -> None:
        """Declares sums by their names and shapes, which begin with zeros."""
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    @property
    def metric_state(self) -> dict[str, Tensor | list[Tensor]]:
        """The sums, by name."""
        return {name: getattr(self, name) for name in self._defaults}

    def reset(self) -> None:
        """Forgets all batches."""
        for name, default in self._defaults.items():
            setattr(self, name, default.to(getattr(self, name), copy=True) if isinstance(default, Tensor) else [])

    def merge_state(self, other: "StreamingMetric") -> None:
        """Adds the sums of another metric of the same kind and size."""
        self._add(other.metric_state)

    @contextmanager
    def sync_context(self) -> Iterator[None]:
        """Inside, the sums are those of all processes."""
        if self._over_all or not (dist.is_available() and dist.is_initialized()):
            yield
            return
        own = self.metric_state
        everybody: list[Any] = [None] * dist.get_world_size()
        device = next((value.device for value in own.values() if isinstance(value, Tensor)), torch.device("cpu"))
        dist.all_gather_object(everybody, {name: _to(value, "cpu") for name, value in own.items()})
        self._over_all = True
        try:
            self.reset()
            for shard in everybody:
                self._add({name: _to(value, device) for name, value in shard.items()})
            yield
        finally:
            for name, value in own.items():
                setattr(self, name, value)
            self._over_all = False

    def _add(self, shard: dict[str, Tensor | list[Tensor]]) -> None:
        for name, reduce in self._reduce.items():
            mine, theirs = getattr(self, name), shard[name]
            if isinstance(theirs, list):
                setattr(self, name, [*mine, *theirs])
            else:
                function = _REDUCE[reduce] if isinstance(reduce, str) else reduce
                setattr(self, name, function(torch.stack([mine, theirs])).to(mine.dtype))

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> "StreamingMetric":
        super()._apply(change, recurse)
        for name, default in self._defaults.items():
            if isinstance(default, list):
                setattr(self, name, [change(value) for value in getattr(self, name)])
        return self


def _to(value: Tensor | list[Tensor], device: str | torch.device) -> Tensor | list[Tensor]:
    return value.to(device) if isinstance(value, Tensor) else [part.to(device) for part in value]
