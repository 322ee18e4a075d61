"""A place in a model's residual stream: read what passes there, or change it, without touching the model's code."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from cbsae_hub.encoders.towers import find_tower

Edit = Callable[[torch.Tensor], torch.Tensor]


class EditError(RuntimeError):
    """An edit that did nothing, or returned something that cannot take the place of the activations."""


@dataclass
class Capture:
    """Activations that passed a site: one tensor ``[batch, tokens, d]`` a forward pass, detached, on its device."""

    activations: list[torch.Tensor] = field(default_factory=list)


class _Enough(Exception):
    """Ends a forward pass as soon as the wanted activations have passed; carries them."""

    def __init__(self, value: torch.Tensor):
        self.value = value


class _Stack:
    """The handlers of one block, run in the order in which they were entered, by one hook.

    The hook stands before all others. transformers 5 records hidden states by forward hooks which it installs at the
    first call; a hook that came after those would change nothing that a model reads from its hidden states.
    Each handler serves the thread that entered it, so that concurrent requests never steer each other.
    """

    def __init__(self) -> None:
        self._handlers: list[tuple[int, Edit]] = []
        self._hook: RemovableHandle | None = None
        self._lock = threading.Lock()

    def _run(self, _module: nn.Module, _inputs: tuple, output: Any) -> Any:
        mine = self.of_this_thread()
        if not mine:
            return None
        value = output[0] if isinstance(output, tuple) else output
        for handler in mine:
            value = handler(value)
        return (value, *output[1:]) if isinstance(output, tuple) else value

    def of_this_thread(self) -> list[Edit]:
        """The handlers that would run."""
        thread = threading.get_ident()
        return [handler for owner, handler in self._handlers if owner == thread]

    @contextmanager
    def entered(self, block: nn.Module, handler: Edit) -> Iterator[None]:
        entry = (threading.get_ident(), handler)
        with self._lock:
            if self._hook is None:
                self._hook = block.register_forward_hook(self._run, prepend=True)
            self._handlers = [*self._handlers, entry]
        try:
            yield
        finally:
            with self._lock:
                self._handlers = [other for other in self._handlers if other is not entry]
                if not self._handlers and self._hook is not None:
                    self._hook.remove()
                    self._hook = None


_STACKS: "WeakKeyDictionary[nn.Module, _Stack]" = WeakKeyDictionary()
_STACKS_LOCK = threading.Lock()


def _stack_of(block: nn.Module) -> _Stack:
    with _STACKS_LOCK:
        return _STACKS.setdefault(block, _Stack())


def find_blocks(model: Any, tower: str = "vision") -> tuple[nn.ModuleList, str]:
    """The blocks of a tower in a model, and their place: see :func:`cbsae_hub.encoders.towers.find_tower`."""
    return find_tower(model, tower)[1:]


def run_blocks(
    model: Any, v: torch.Tensor, first: int, last: int | None = None, grid: tuple[int, int] | None = None
) -> torch.Tensor:
    """Runs blocks of a vision tower on a residual stream, one after the other.

    Args:
        model: See :func:`find_blocks`.
        v: Input of the first of them, all tokens, ``[images, tokens, d]``.
        first: The first block, from 0.
        last: The last one, included; default the tower's last.
        grid: Rows and columns of patches, which towers with rotary positions (DINOv3) need; default a square.

    Raises:
        ValueError: If the tower has rotary positions and the patches are not those of the grid.
    """
    tower, blocks, _ = find_tower(model)
    blocks = blocks[first : None if last is None else last + 1]
    rotary = getattr(tower, "rope_embeddings", None)
    positions = {} if rotary is None or not len(blocks) else {"position_embeddings": _rotations(rotary, v, grid)}
    for block in blocks:
        v = block(v, attention_mask=None, **positions)
    return v


def _rotations(rotary: nn.Module, v: torch.Tensor, grid: tuple[int, int] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the patches' places, which DINOv3 computes from its pictures' size once for all blocks."""
    config: Any = rotary.config
    patches = v.shape[1] - 1 - config.num_register_tokens
    rows, columns = grid or (math.isqrt(max(patches, 0)),) * 2
    if patches < 1 or rows * columns != patches:
        raise ValueError(
            f"{v.shape[1]} tokens, of which {1 + config.num_register_tokens} come before the patches, are not those of "
            f"a grid of {rows} x {columns} patches: blocks with rotary positions need all tokens"
            + (" and grid=(rows, columns)" if grid is None else "")
        )
    return rotary(v.new_empty(1, config.num_channels, rows * config.patch_size, columns * config.patch_size))


class ResidualSite:
    """The output of one block of a transformer, ``[batch, tokens, d]``; or of a LLaVA's projector.

    Several captures and edits may be active at once. They run in the order in which they were entered: each sees what
    the earlier ones made of the activations, and the model goes on with the last one's result. All serve only the
    thread that entered them, and end with their ``with`` block, exceptions included.

    Attributes:
        layer: The block, counted from 0.
        name: Its place in the model, for messages.
    """

    def __init__(self, block: nn.Module, layer: int, name: str):
        self.block, self.layer, self.name = block, layer, name

    @classmethod
    def find(cls, model: Any, layer: int, tower: str = "vision") -> "ResidualSite":
        """Finds a block's output.

        While a language model generates, the prompt passes a block at once, and then every new token by itself.

        Args:
            model: See :func:`cbsae_hub.encoders.towers.find_tower`.
            layer: Block counted from 0; negative numbers count from the end, -1 is the last block. LLaVA's
                ``vision_feature_layer=-2`` is the output of block -2. A projector has block 0 alone.
            tower: "vision", "text", "language" or "projector", see :func:`cbsae_hub.encoders.towers.find_tower`.

        Raises:
            ValueError: If there is no such tower, no such block, or no layer is given.
        """
        blocks, path = find_blocks(model, tower)
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise ValueError(f"layer must be the number of a block of {path}, got {layer!r:.80}")
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(f"layer {layer} does not exist: {path} has {len(blocks)} layers, 0 to {len(blocks) - 1}")
        index = layer % len(blocks)
        return cls(blocks[index], index, path if tower == "projector" else f"{path}.{index}")

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Collects the activations, as the model's next block would see them were no later edit active.

        Raises:
            EditError: On leaving, if no forward pass came by.
        """
        capture = Capture()

        def keep(value: torch.Tensor) -> torch.Tensor:
            capture.activations.append(value.detach())
            return value

        with _stack_of(self.block).entered(self.block, keep):
            yield capture
        if not capture.activations:
            raise EditError(f"nothing was captured: no forward pass of this thread came by {self.name}")

    def read(self, forward: Callable[[], Any]) -> torch.Tensor:
        """The activations while ``forward`` runs the model once, ``[batch, tokens, d]``; see :func:`read_sites`."""
        return read_sites([self], forward)[0]

    @contextmanager
    def edit(self, fn: Edit, allow_identity: bool = False) -> Iterator[None]:
        """Replaces the activations ``v`` by ``fn(v)`` while active.

        Args:
            fn: ``[batch, tokens, d] -> [batch, tokens, d]``, same dtype and device, finite.
            allow_identity: Whether leaving everything as it was is fine (strength 0 of a sweep).

        Raises:
            EditError: If ``fn`` returns something else than finite activations of the same form; on leaving, if no
                forward pass came by, or if every one left the activations exactly as they were.
        """
        passes = changes = 0

        def change(value: torch.Tensor) -> torch.Tensor:
            nonlocal passes, changes
            edited = fn(value)
            self._check(edited, value)
            passes += 1
            changes += not allow_identity and not torch.equal(edited, value)
            return edited

        with _stack_of(self.block).entered(self.block, change):
            yield
        if not passes:
            raise EditError(f"the edit had no effect: no forward pass of this thread came by {self.name}")
        if not allow_identity and not changes:
            raise EditError(
                f"the edit had no effect: it left the activations at {self.name} unchanged in all {passes} forward "
                "passes. If that may be (strength 0), say allow_identity=True"
            )

    def _check(self, edited: torch.Tensor, value: torch.Tensor) -> None:
        form = (value.shape, value.dtype, value.device)
        if not isinstance(edited, torch.Tensor) or (edited.shape, edited.dtype, edited.device) != form:
            raise EditError(
                f"the edit at {self.name} must return {_described(value)}, got "
                + (_described(edited) if isinstance(edited, torch.Tensor) else type(edited).__name__)
            )
        if not edited.isfinite().all():
            raise EditError(f"the edit at {self.name} returned NaN or infinite activations")


def read_sites(sites: Sequence[ResidualSite], forward: Callable[[], Any]) -> list[torch.Tensor]:
    """The activations at several sites of one model while ``forward`` runs it once, ``[batch, tokens, d]`` each.

    The blocks after the last site are spared, unless this thread captures or edits something at the time.

    Args:
        sites: One or more; the same block may come more than once.
        forward: Runs the model; its result is ignored.

    Raises:
        EditError: If no forward pass came by.
    """
    with _STACKS_LOCK:
        alone = not any(stack.of_this_thread() for stack in _STACKS.values())
    last = max(sites, key=lambda site: site.layer)

    def leave(value: torch.Tensor) -> torch.Tensor:
        raise _Enough(value.detach())

    own = {site.layer: site for site in sites if not alone or site.layer != last.layer}
    passed: dict[int, torch.Tensor] = {}
    with ExitStack() as entered:
        captures = {layer: entered.enter_context(site.capture()) for layer, site in own.items()}
        if alone:
            entered.enter_context(_stack_of(last.block).entered(last.block, leave))
        try:
            forward()
        except _Enough as enough:
            passed[last.layer] = enough.value
    if alone and not passed:
        raise EditError(f"nothing was captured: no forward pass of this thread came by {last.name}")
    passed |= {layer: capture.activations[0] for layer, capture in captures.items()}
    return [passed[site.layer] for site in sites]


def _described(value: torch.Tensor) -> str:
    return f"{tuple(value.shape)} {value.dtype} on {value.device}"
