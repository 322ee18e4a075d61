"""The version of the package, stamped into every config and pack that it writes, and the commit of its sources."""

import subprocess
from pathlib import Path

__version__ = "0.1.0"


def source_commit() -> str | None:
    """The commit of the checkout that the package runs from, with "-dirty" if it was changed since; else None."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():  # installed: whatever repository lies around is another one
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
