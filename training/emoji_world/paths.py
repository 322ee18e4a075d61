"""The folders that the scripts of Emoji World write, and the way a published one is replaced."""

import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
HUB = ROOT / "hub"
RUNS = ROOT / "runs"


def publish(folder: Path, *saves: Callable[[Path], object]) -> None:
    """Lets every function save into a temporary folder, then moves the files over those of the published one.

    Files that nobody saves, a card for instance, stay as they are, also in sub-folders.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for save in saves:
        save(partial)
    for file in [file for file in partial.rglob("*") if file.is_file()]:
        target = folder / file.relative_to(partial)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(partial)
