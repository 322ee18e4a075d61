"""The parts of every training run: a checkpoint, sums over its processes, a stop between two steps, a log."""

import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process, register_tracker_class
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cbsae_hub.hub.files import ModelFileError, replace_file, write_text

CHECKPOINT_NAME = "checkpoint.safetensors"
LOG_NAME = "log.jsonl"


def save_checkpoint(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes a run's state to one safetensors file, in a folder that is made: tensors by name, and the rest for JSON.

    Nothing is pickled, unlike what Accelerate writes. A kill at any moment leaves the old file or the new one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replace_file(file) as temporary:
        save_file(contiguous, temporary, metadata={"facts": json.dumps(facts)})


def load_checkpoint(file: Path, device: torch.device | str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Reads ``(tensors, facts)`` of a checkpoint, or None if there is none.

    Raises:
        ModelFileError: If the file is damaged.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            facts = json.loads(opened.metadata()["facts"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{file} is damaged ({error}): delete it to start again") from None


class Processes:
    """The processes among which a global batch is split.

    Args:
        accelerator: The run's accelerator; None for a single process.
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
        sizes = self.sum_(lengths).tolist()
        padded = torch.nn.functional.pad(tensor, (0, max(sizes) - len(tensor)))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return [part[:size] for part, size in zip(parts, sizes)]

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.count > 1:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor, operation)
        return tensor


class StopRequest:
    """Stops a run between two steps: SIGINT and SIGTERM are noted instead of ending the process; a second one ends it.

    Args:
        processes: A signal to any of them stops all after the same step.
        device: The device of the tensor by which they agree.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, processes: Processes, device: torch.device | str = "cpu"):
        self.processes = processes
        self.device = device
        self.received = False
        self.previous: dict[int, Any] = {}

    def requested(self) -> bool:
        """Whether to stop; all processes must ask after the same step, and get the same answer."""
        if self.processes.count == 1:
            return self.received
        votes = torch.tensor([self.received], dtype=torch.int32, device=self.device)
        return bool(self.processes.sum_(votes).item())

    def __enter__(self) -> "StopRequest":
        """Takes over the signals; only the main thread may, elsewhere nothing is noted."""
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Gives the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self.previous[number])


class JsonlTracker(GeneralTracker):
    """Appends one JSON object per logged step to ``log.jsonl``; known to Accelerate as "jsonl".

    Args:
        run_name: Not used; Accelerate passes it.
        logging_dir: Folder of ``log.jsonl``.
    """

    name = "jsonl"
    requires_logging_directory = True
    main_process_only = True

    @on_main_process
    def __init__(self, run_name: str, logging_dir: str | Path, **kwargs: Any):
        super().__init__()
        self.path = Path(logging_dir) / LOG_NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Does nothing: the settings of a run are in training.json."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Appends a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Removes what a run logged after its last checkpoint, so that a resumed run does not log it twice."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A killed run may have left half a line.
    write_text(path, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))


register_tracker_class(JsonlTracker)
