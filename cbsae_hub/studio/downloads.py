"""Files that visitors download, in a folder that goes when the page ends; Gradio serves copies of its own."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def folder() -> Path:
    """The folder, one a process."""
    made = Path(tempfile.mkdtemp(prefix="cbsae-page-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
