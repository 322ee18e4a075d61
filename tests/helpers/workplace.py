"""A folder in which the documentation's code runs as in a clone of the repository, and writes nothing into it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEN = ("app.py", "benchmarks", "cbsae_hub", "docs", "hub", "Makefile", "pyproject.toml", "spaces", "training")


def make_workplace(folder: Path) -> Path:
    """Links to what is read; ``runs``, where everything is written, is missing as in a new clone."""
    folder.mkdir(parents=True)
    for name in SEEN:
        (folder / name).symlink_to(ROOT / name)
    return folder


def tracked() -> dict[Path, tuple[int, int]]:
    """Size and time of every file of the repository that the code could have changed."""
    files = [path for name in SEEN for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }
