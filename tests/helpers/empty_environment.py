"""A virtual environment with the packages of this one but not this package: as on a machine that installs it first."""

import os
import subprocess
import sys
from pathlib import Path


def empty_environment(folder: Path) -> Path:
    """Makes one in a folder; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "installed.pth").write_text("\n".join(installed))  # files like it in those folders are not read
    return folder / "bin" / "python"


def variables(home: Path) -> dict[str, str]:
    """The environment variables of somebody who has set none, and is offline."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
