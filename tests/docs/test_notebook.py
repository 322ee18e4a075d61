"""Pages that are notebooks: one text in two forms, what is shown is what it does, where only the repository is."""

import importlib.util

import nbformat
import numpy as np
import pytest
from PIL import Image
from workplace import ROOT, make_workplace, tracked

DOCS = ROOT / "docs"
spec = importlib.util.spec_from_file_location("pages_as_notebooks", DOCS / "notebook.py")
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)


def page_of(name):
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def committed(name):
    return nbformat.read(DOCS / f"{name}.ipynb", 4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(("name", "drawn"), [("quickstart", 3), ("your-own", 2)])
def test_notebook_is_the_page(name, drawn):
    page, shown = page_of(name), committed(name)
    made = notebooks.notebook_of(page)
    again = f"run python docs/notebook.py {name}"
    assert [(cell.cell_type, cell.source) for cell in shown.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], again
    assert notebooks.with_printed(page, shown) == page, again
    pictures = notebooks.pictures(shown)
    assert len(pictures) == len(notebooks.PICTURE.findall(page)) == drawn
    for i, picture in enumerate(pictures, 1):
        on_page = Image.open(DOCS / "images" / f"{name}-{i}.webp")
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(on_page.convert("RGB"))), again
    nbformat.validate(shown)


def test_text_and_pictures_are_put_where_they_belong():
    first, second = "```python\n1\n```\n\n```text\nold\n```\n", "```python\n2\n```\n\n![a](images/quickstart-1.webp)\n"
    command = "```sh\ncbsae doctor\n```\n\n```text\nof a command\n```"
    page = f"# Title\n\n{first}\n{command}\n\n{second}"
    made = notebooks.notebook_of(page)
    assert [cell.source for cell in made.cells] == ["# Title", "1", command, "2"]
    first, second = code_cells(made)
    first.outputs = [nbformat.v4.new_output("stream", name="stdout", text="new\n")]
    second.outputs = []
    assert notebooks.with_printed(page, made) == page.replace("old", "new")


def run_in_a_clone(name, folder):
    """The code cells of a page, run now, each with what is shown; the repository stays as it is."""
    before = tracked()
    made = notebooks.run(notebooks.notebook_of(page_of(name)), make_workplace(folder / "clone"))
    assert tracked() == before, "the page writes into the repository"
    cells = list(zip(code_cells(made), code_cells(committed(name)), strict=True))
    for cell, shown in cells:
        kinds = [[output.output_type for output in each.outputs] for each in (cell, shown)]
        assert kinds[0] == kinds[1], cell.source
    return cells


def test_quickstart_runs_as_shown(tmp_path):
    """To the letter up to the training, whose last bits depend on the machine; the prose's claims hold after it too."""
    cells = run_in_a_clone("quickstart", tmp_path)
    printed = [(notebooks.printed(cell), notebooks.printed(shown)) for cell, shown in cells]
    trained = next(i for i, (cell, _) in enumerate(cells) if "trainer.train()" in cell.source)
    assert all(now == shown for now, shown in printed[:trained])
    *_, (explained, explained_shown), (saved, saved_shown), (said, said_shown) = printed
    assert float(explained.split()[0]) == pytest.approx(float(explained_shown.split()[0]), abs=0.03)
    assert saved == saved_shown
    right, right_shown = (
        sum(len(set(line.split(" -> "))) == 1 for line in text.splitlines()) for text in (said, said_shown)
    )
    assert right >= 2 and abs(right - right_shown) <= 1, said


def test_own_pictures_are_explained_as_shown(tmp_path):
    """The training's last bits depend on the machine: what is drawn is the same, and the prose's claims hold."""
    cells = run_in_a_clone("your-own", tmp_path)
    assert notebooks.printed(cells[0][0]) == notebooks.printed(cells[0][1])
    drawn, summary, best = (notebooks.printed(cell) for cell, _ in cells)
    assert drawn.startswith("240 pictures")
    assert float(summary.split()[-1]) > 0.8, summary
    assert len(best.splitlines()) >= 2, best
