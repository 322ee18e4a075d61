"""Programs as a user runs them, in processes of their own.

These are forked off one that has imported the libraries and done nothing else: to import them again for each program
would take longer than most of what is tested.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
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
# What the libraries read when they are imported: one thread for each process, and no network.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_program(program: Path, *arguments: object, cwd: Path, stdout: Path, stderr: Path, **environment: str):
    """Starts a program in a folder; returns its process, whose streams are written to files."""
    command = [str(program), *map(str, arguments)]
    process = _context.Process(target=_main, args=(command, str(cwd), str(stdout), str(stderr), environment))
    with patch.dict(os.environ, ENVIRONMENT):  # the first one starts the process that all are forked off
        process.start()
    return process


def run_script(
    name: str | Path, *arguments: object, cwd: Path, processes: int = 1, **environment: str
) -> SimpleNamespace:
    """Runs a script of ``training/``, or a program elsewhere, in a folder.

    Args:
        name: The script's name, or the path of the program.
        *arguments: Its command line.
        cwd: The folder.
        processes: If several, they know of each other as those that torchrun starts.
        **environment: Further environment variables.

    Returns:
        ``returncode`` (the worst), ``returncodes``, ``stdout`` and ``stderr`` (one process after the other).
    """
    if processes > 1:
        count = str(processes)
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    with TemporaryDirectory() as temporary:
        files = [
            {stream: Path(temporary) / f"{stream}-{i}" for stream in ("stdout", "stderr")} for i in range(processes)
        ]
        running = []
        for rank, streams in enumerate(files):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            running.append(start_program(TRAINING / name, *arguments, cwd=cwd, **streams, **environment, **ranks))
        end = time.monotonic() + SECONDS
        for process in running:
            process.join(max(0, end - time.monotonic()))
        late = [process for process in running if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        texts = {
            stream: "".join(streams[stream].read_text(encoding="utf-8") for streams in files)
            for stream in ("stdout", "stderr")
        }
        if late:
            raise TimeoutError(f"{name} ran for more than {SECONDS} s: {texts['stderr']}")
        codes = [process.exitcode for process in running]
        return SimpleNamespace(returncode=max(codes, key=abs), returncodes=codes, **texts)


def _main(command: list[str], cwd: str, stdout: str, stderr: str, environment: dict[str, str]) -> None:
    assert sys.modules.keys() >= set(LIBRARIES), "a preload that fails is silent, and slow"
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
