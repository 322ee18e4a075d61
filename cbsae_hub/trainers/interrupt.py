"""Stopping a run between two steps, when Ctrl-C or a scheduler asks for it."""

import signal
import threading
from types import FrameType

import torch

from cbsae_hub.trainers.processes import Processes


class StopRequest:
    """Within its context SIGINT and SIGTERM are noted instead of ending the process; a second one does end it.

    Args:
        processes: A signal to any of them stops all after the same step.
        device: Of the tensor that they agree through.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, processes: Processes, device: torch.device | str = "cpu"):
        self.processes = processes
        self.device = device
        self.received = False
        self.previous = {}

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
