"""Files that visitors download, in a folder that goes when the page ends. Where it lies is nobody's business."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route


@cache
def folder() -> Path:
    """Returns the folder, one a process."""
    path = Path(tempfile.mkdtemp(prefix="cbsae-page-")).resolve()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def served(key: str) -> Path:
    """Returns a folder whose files can be had by who knows its key, see :func:`address`."""
    path = folder() / "served" / key.replace("/", "--")
    path.mkdir(parents=True, exist_ok=True)
    return path


def address(file: Path) -> str:
    """Returns the address of a file of a folder of :func:`served`, relative to the page."""
    return f"download/{quote(file.parent.name)}/{quote(file.name)}"


def send(request: Request) -> FileResponse:
    """Answers a request for a file of :func:`served`."""
    file = (folder() / "served" / request.path_params["key"] / request.path_params["name"]).resolve()
    if file.parent.parent != folder() / "served" or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, filename=file.name)


ROUTE = Route("/download/{key}/{name}", send)
