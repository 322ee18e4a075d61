"""Runs the code of pages of the documentation; writes what it printed and drew: into the page, and into a notebook.

    python docs/notebook.py              # both
    python docs/notebook.py your-own     # one

Needs the extra `test`. The page is what one edits. In it a ```text block after a ```python block is what that printed,
and ``images/quickstart-1.webp`` the first picture; both are replaced. The notebook is made anew.
"""

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

DOCS = Path(__file__).parent
PAGES = ("quickstart", "your-own")
PICTURE = re.compile(rf"^!\[[^\]]*\]\(images/(?:{'|'.join(PAGES)})-\d+\.webp\)\n\n?", re.MULTILINE)
CODE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.DOTALL | re.MULTILINE)  # and what it printed


def notebook_of(page: str) -> Any:
    """The notebook of a page, not run: a cell for each block of code, and one for the text between two of them."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for i, part in enumerate(CODE.split(PICTURE.sub("", page))):
        if part.strip():
            make = nbformat.v4.new_code_cell if i % 2 else nbformat.v4.new_markdown_cell
            notebook.cells.append(make(part.strip(), id=f"cell-{len(notebook.cells)}"))
    return notebook


def run(notebook: Any, folder: str | Path) -> Any:
    """Runs a notebook in a folder; what goes to stderr (progress bars, warnings) is dropped.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined([output for output in cell.outputs if output.get("name") != "stderr"])
            cell.metadata.pop("execution", None)  # times of day
    notebook.metadata.pop("language_info", None)  # the version of Python
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """What was printed as one output: in how many pieces it came depends on the clock."""
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    others = [output for output in outputs if output.output_type != "stream"]
    return [*([nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []), *others]


def printed(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(notebook: Any) -> list[Image.Image]:
    """What the cells of a notebook drew."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    drawn = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in drawn]


def with_printed(page: str, notebook: Any) -> str:
    """A page with what the cells of its notebook printed."""
    cells = iter([cell for cell in notebook.cells if cell.cell_type == "code"])

    def add(block: re.Match) -> str:
        text = printed(next(cells))
        return f"```python\n{block[1]}```\n" + (f"\n```text\n{text}```\n" if text else "")

    return CODE.sub(add, page)


def remake(name: str) -> None:
    """Writes a page and its notebook and pictures anew.

    Args:
        name: One of ``PAGES``.
    """
    path = DOCS / f"{name}.md"
    page = path.read_text(encoding="utf-8")
    notebook = run(notebook_of(page), DOCS)
    path.write_text(with_printed(page, notebook), encoding="utf-8")
    nbformat.write(notebook, path.with_suffix(".ipynb"))
    for i, picture in enumerate(pictures(notebook), 1):
        picture.save(DOCS / "images" / f"{name}-{i}.webp", lossless=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or PAGES:
        remake(name)
