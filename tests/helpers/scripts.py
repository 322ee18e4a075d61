"""Programs as a user runs them, in processes of their own.

These are forked off one that has imported the libraries and done nothing else: to import them again for each program
would take longer than most of what is tested.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "training"
SECONDS = 200
LIBRARIES = [
    "cbsae_hub.scoring.build_pack",
    "cbsae_hub.studies.evaluation",
    "cbsae_hub.studio.serve",
    "cbsae_hub.trainers.cbsae.trainer",
]
# This checkout comes first; and what the libraries read when they are imported: one thread each, no network.
PATH = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
ENVIRONMENT = {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
NO_RANK = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
NO_RANK |= {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_program(*command: object, cwd: Path, stdout: Path, stderr: Path, **environment: str):
    """Starts a program in a folder; returns its process.

    Args:
        *command: What follows ``python`` on a command line: the path of the program, or -m and a module.
        cwd: The folder.
        stdout: The file that the program's output is added to.
        stderr: That of its errors; it may be the same.
        **environment: Further environment variables.
    """
    process = _context.Process(
        target=_main, args=(list(map(str, command)), *map(str, (cwd, stdout, stderr)), environment)
    )
    with patch.dict(os.environ, ENVIRONMENT):  # the first one starts the process that all are forked off
        for name in NO_RANK:
            os.environ.pop(name, None)
        process.start()
    return process


def run_program(*command: object, cwd: Path, processes: int = 1, **environment: str) -> SimpleNamespace:
    """Runs a program in a folder; see :func:`start_program`.

    Args:
        *command: See there.
        cwd: The folder.
        processes: If several, they know of each other as those that torchrun starts.
        **environment: Further environment variables.

    Returns:
        ``returncode`` (the worst), ``returncodes``, ``stdout`` and ``stderr`` (one process after the other).
    """
    ranks = [{}]
    if processes > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        ranks = [dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(processes)]
    return run_together(command, [environment | rank for rank in ranks], cwd)


def run_together(command: Sequence[object], environments: Sequence[dict[str, str]], cwd: Path) -> SimpleNamespace:
    """Runs a program in several processes at the same time, each with its environment; see :func:`run_program`."""
    with TemporaryDirectory() as temporary:
        files = [[Path(temporary, f"{name}-{i}") for i in range(len(environments))] for name in ("stdout", "stderr")]
        running = [
            start_program(*command, cwd=cwd, stdout=stdout, stderr=stderr, **environment)
            for stdout, stderr, environment in zip(*files, environments)
        ]
        end = time.monotonic() + SECONDS
        for process in running:
            process.join(max(0, end - time.monotonic()))
        late = [process for process in running if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        stdout, stderr = ("".join(file.read_text(encoding="utf-8") for file in each) for each in files)
        if late:
            raise TimeoutError(f"{command} ran for more than {SECONDS} s: {stderr}")
        codes = [process.exitcode for process in running]
        return SimpleNamespace(returncode=max(codes, key=abs), returncodes=codes, stdout=stdout, stderr=stderr)


def run_script(name: str, *arguments: object, **options: Any) -> SimpleNamespace:
    """Runs a script of ``training/``; see :func:`run_program`."""
    return run_program(TRAINING / name, *arguments, **options)


def _main(command: list[str], cwd: str, stdout: str, stderr: str, environment: dict[str, str]) -> None:
    assert sys.modules.keys() >= set(LIBRARIES), "a preload that fails is silent, and slow"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have jobs behind them ignore it
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.update(environment)
    os.chdir(cwd)
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
