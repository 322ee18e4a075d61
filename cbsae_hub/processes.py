"""The processes of a run: they know of each other, and no other run writes into their folder meanwhile."""

import json
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

try:
    import fcntl
except ImportError:  # Windows has none: nobody keeps two runs apart there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"  # hidden, so that it is never published
COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # torchrun's, and those of MPIs
LOCAL_COUNTS = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")


class ProcessError(ValueError):
    """Processes that were started together cannot work together."""


class FolderInUse(OSError):
    """Another run writes into the folder."""


def make_accelerator(cpu: bool = False, alone: bool = False, **options: Any) -> Accelerator:
    """The accelerator of this run, whichever way its processes were started.

    Accelerate alone takes each process for the only one where torchrun starts several on a machine without a GPU, and
    its launcher starts one where several are asked for there. Here the first ones find each other, by gloo, and the
    second one stops.

    Args:
        cpu: Whether to leave the GPU alone.
        alone: Whether the program is made for one process.
        **options: Other arguments of :class:`accelerate.Accelerator`.

    Raises:
        ProcessError: If the processes that were asked for are not there, or cannot work together; says the line.
    """
    count, cpu = _look_around(cpu, alone)
    accelerator = Accelerator(cpu=cpu, **options)
    if count > 1 and accelerator.num_processes != count:
        raise ProcessError(
            f"{count} processes were started, and find {accelerator.num_processes} of them. Start them with: "
            f"{torchrun_line()}"
        )
    return accelerator


def is_main_process() -> bool:
    """Returns whether this is the process that speaks, before anybody has made an accelerator.

    Raises:
        ProcessError: See :func:`make_accelerator`.
    """
    _, cpu = _look_around(cpu=False, alone=False)
    return PartialState(cpu=cpu).is_main_process


def _look_around(cpu: bool, alone: bool) -> tuple[int, bool]:
    """Number of the processes that were started together, and whether they have to leave the GPU alone."""
    count = _first_number(COUNTS)
    # What Accelerate's launcher sets for several processes, and leaves without a rank where it starts only one.
    if count is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
        raise ProcessError(
            "accelerate launch was asked for several processes and has started one, as it does on CPUs. Start them "
            f"with: {torchrun_line()}; for one process say --num_processes 1, and leave MASTER_ADDR unset"
        )
    several = (count or 1) > 1
    if several and alone:
        raise ProcessError(f"{count} processes were started for what one process does: start it without torchrun")
    if several and not cpu:
        local, devices = _first_number(LOCAL_COUNTS) or 1, _devices()
        forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")
        if devices and not forced and local > devices:
            raise ProcessError(
                f"{local} processes were started on this machine, which has {devices} GPU{'s' * (devices > 1)}: start "
                "as many, or set ACCELERATE_USE_CPU=true"
            )
        cpu = forced or not devices
        if cpu and local == count:
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # which MPI leaves to us
    return count or 1, cpu


def torchrun_line() -> str:
    """The line that starts this program on several processes of this machine."""
    program = Path(sys.argv[0])
    name = shlex.quote(sys.argv[0]) if program.suffix == ".py" and program.stem != "__main__" else "-m cbsae_hub"
    return " ".join(["torchrun --standalone --nproc_per_node N", name, shlex.join(sys.argv[1:])]).strip()


def _first_number(names: tuple[str, ...]) -> int | None:
    """The first of some environment variables that is a number."""
    return next((int(value) for name in names if (value := os.environ.get(name, "")).isdecimal()), None)


def _devices() -> int:
    """Number of the devices of this machine on which several processes can work together."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return 0 if device is None or device.type == "mps" else torch.accelerator.device_count()


@contextmanager
def claimed(folder: str | Path, accelerator: Accelerator | None = None) -> Iterator[None]:
    """Keeps a folder, made if needed, for this run: another one that wants it stops.

    The lock is one of the system, so that it ends with its process, however that ends. The file says whose it is; one
    that another machine left cannot be told from one in use there, so it is believed.

    Args:
        folder: The folder that the run writes.
        accelerator: The run's, if it has several processes, all of which must come here; they hold it together.

    Raises:
        FolderInUse: If another run has it, on every process.
    """
    file, problem = None, None
    if accelerator is None or accelerator.is_main_process:
        try:
            file = _lock(Path(folder))
        except FolderInUse as error:
            problem = str(error)
    if accelerator is not None and accelerator.num_processes > 1:
        problem = broadcast_object_list([problem])[0]
    if problem is not None:
        raise FolderInUse(problem)
    try:
        yield
    finally:
        if file is not None:
            with suppress(PermissionError):  # Windows removes no open file
                Path(file.name).unlink(missing_ok=True)
            file.close()


def _lock(folder: Path) -> IO[str]:
    """The open lock of a folder, which is this process's until it is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    path, host = folder / LOCK_NAME, socket.gethostname()
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = _owner(file)
        except BlockingIOError:
            owner = _owner(file)
            file.close()
            raise FolderInUse(
                f"{folder} is being written by another run, {_name_of(owner)}: wait for its end, or take another folder"
            ) from None
        if owner.get("host", host) != host:
            file.close()
            raise FolderInUse(
                f"{folder} was taken by a run on another machine, {_name_of(owner)}: if that has ended, delete {path}"
            )
        # Between opening and locking, the one before may have removed the file: then it is nobody's.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    if owner:
        logger.info("%s was left by a run that has ended, %s: it goes on here", folder, _name_of(owner))
    file.truncate(0)
    json.dump({"pid": os.getpid(), "host": host}, file)
    file.flush()
    return file


def _owner(file: IO[str]) -> dict[str, Any]:
    """The process that a lock names; nothing if it has just been made."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _name_of(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'this machine')}"
