"""The steps of a recipe, and whether this machine has the memory and the disk that they need."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import costs
import throughput
import torch


@dataclass
class Step:
    """One command of a recipe.

    Attributes:
        name: Section of the recipe.
        command: What to run.
        disk: Bytes by what they are for, as (folder, bytes).
        memory: Bytes at the device; 0 if not known.
        host: Bytes beside the device.
        seconds: How long, if it was measured.
        remarks: What else there is to say.
    """

    name: str
    command: str
    disk: dict[str, tuple[str, int]] = field(default_factory=dict)
    memory: int = 0
    host: int = 0
    seconds: float | None = None
    remarks: list[str] = field(default_factory=list)


def device_memory() -> tuple[str, int]:
    """The name of the device that steps run on, and its memory in bytes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    return throughput.device_name(), host_memory()


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(folder: Path) -> int:
    """Bytes that are free on an existing folder's file system."""
    return shutil.disk_usage(folder).free


def shortages(steps: Iterable[Step]) -> list[str]:
    """What this machine lacks, a line each: memory step by step, disk for all steps together."""
    steps, lacking = list(steps), []
    _, memory = device_memory()
    for step in steps:
        for what, needed, there in (("device", step.memory, memory), ("host", step.host, host_memory())):
            if needed > there:
                sizes = f"{costs.spelled(needed)} of memory, the {what} has {costs.spelled(there)}"
                lacking.append(f"{step.name}: needs {sizes}")
    wanted: dict[int, list[tuple[str, int]]] = {}
    folders: dict[int, Path] = {}
    for step in steps:
        for what, (path, size) in step.disk.items():
            folder = costs.existing_folder(path)
            place = folder.stat().st_dev
            folders.setdefault(place, folder)
            missing = max(0, size - (costs.folder_bytes(path) if Path(path).is_dir() else 0))
            wanted.setdefault(place, []).append((what, missing))
    for place, parts in wanted.items():
        total, free = sum(size for _, size in parts), free_bytes(folders[place])
        if total > free:
            largest = sorted(parts, key=lambda part: -part[1])[:5]
            listed = ", ".join(f"{what} {costs.spelled(size)}" for what, size in largest)
            needed = f"{costs.spelled(total)} are needed where {folders[place]} is, {costs.spelled(free)} are free"
            lacking.append(f"disk: {needed}; the largest parts: {listed}")
    return lacking


def spelled_time(seconds: float) -> str:
    """A duration in words."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
