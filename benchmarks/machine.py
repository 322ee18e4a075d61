"""The machine on which a benchmark runs, for its results."""

import os
import platform
from pathlib import Path

import torch

THREADS = 2


def machine() -> dict[str, str | int | None]:
    """Processor, cores, torch and its threads."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
