"""Tars of given files, written with the standard library alone."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Writes a tar of names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
