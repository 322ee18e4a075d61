"""What `make real` has fetched, if it has."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "runs" / "photo-world"


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of `make real`, with its Python packages to import."""
    python = list(FOLDER.glob("downloads/python-????????"))
    if not python or not (FOLDER / "scenes").is_dir():  # which come last
        pytest.skip(f"{FOLDER} has no photographs and no encoder: `make test-real` fetches them")
    sys.path.append(str(python[0]))
    yield FOLDER
    sys.path.remove(str(python[0]))
