"""A folder in which the documentation's code runs as in a clone of the repository, and writes nothing into it."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
READ = ("app.py", "benchmarks", "cbsae_hub", "docs", "Makefile", "pyproject.toml", "spaces", "training")


def make_workplace(folder: Path, hub: Path | None = None) -> Path:
    """Links to what is only read, and a copy of the models, which some scripts replace.

    Args:
        folder: Made here. ``runs``, where everything else is written, is missing as in a new clone.
        hub: A copy of the models to link to; default one is made.
    """
    folder.mkdir(parents=True)
    for name in READ:
        (folder / name).symlink_to(ROOT / name)
    if hub is None:
        shutil.copytree(ROOT / "hub", folder / "hub")
    else:
        (folder / "hub").symlink_to(hub)
    return folder


def tracked() -> dict[Path, tuple[int, int]]:
    """Size and time of every file of the repository that the code could change through the links."""
    files = [path for name in READ for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }
