"""Scripts of ``training/`` as a user runs them, in a process of their own.

That process is forked off one that has imported the libraries and done nothing else: to import them again for each
script would take longer than most of what is tested.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

TRAINING = Path(__file__).parents[2] / "training"
SECONDS = 200

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["cbsae_hub.studies.evaluation", "cbsae_hub.trainers.cbsae.trainer", "cbsae_hub.scoring.build_pack"]
)


def run_script(name: str, *arguments: object, cwd: Path) -> SimpleNamespace:
    """Runs a script in a folder; returns ``returncode``, ``stdout`` and ``stderr``."""
    with TemporaryDirectory() as temporary:
        written = [Path(temporary) / stream for stream in ("stdout", "stderr")]
        command = [str(TRAINING / name), *map(str, arguments)]
        process = _context.Process(target=_main, args=(command, str(cwd), *map(str, written)))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{name} ran for more than {SECONDS} s: {written[1].read_text()}")
        stdout, stderr = (file.read_text(encoding="utf-8") for file in written)
        return SimpleNamespace(returncode=process.exitcode, stdout=stdout, stderr=stderr)


def _main(command: list[str], cwd: str, stdout: str, stderr: str) -> None:
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, str(TRAINING))
    runpy.run_path(command[0], run_name="__main__")
