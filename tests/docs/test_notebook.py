"""The quickstart: one text in two forms, what is shown is what it does, and it runs where only the repository is."""

import importlib.util

import nbformat
import numpy as np
import pytest
from PIL import Image
from workplace import ROOT, make_workplace, tracked

DOCS = ROOT / "docs"
spec = importlib.util.spec_from_file_location("quickstart_notebook", DOCS / "notebook.py")
quickstart = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quickstart)

PAGE = quickstart.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(quickstart.NOTEBOOK, 4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_is_the_page(committed):
    made = quickstart.notebook_of(PAGE)
    again = "run python docs/notebook.py"
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], again
    assert quickstart.with_printed(PAGE, committed) == PAGE, again
    pictures = quickstart.pictures(committed)
    assert len(pictures) == len(quickstart.PICTURE.findall(PAGE)) == 3
    for i, picture in enumerate(pictures, 1):
        shown = Image.open(DOCS / "images" / f"quickstart-{i}.webp")
        assert np.array_equal(np.asarray(picture.convert("RGB")), np.asarray(shown.convert("RGB"))), again
    nbformat.validate(committed)


def test_text_and_pictures_are_put_where_they_belong():
    first, second = "```python\n1\n```\n\n```text\nold\n```\n", "```python\n2\n```\n\n![a](images/quickstart-1.webp)\n"
    page = f"# Title\n\n{first}\nText.\n\n{second}"
    made = quickstart.notebook_of(page)
    assert [cell.source for cell in made.cells] == ["# Title", "1", "Text.", "2"]
    first, second = code_cells(made)
    first.outputs = [nbformat.v4.new_output("stream", name="stdout", text="new\n")]
    second.outputs = []
    assert quickstart.with_printed(page, made) == page.replace("old", "new")


def test_notebook_runs_as_shown(committed, tmp_path):
    """To the letter up to the training, whose last bits depend on the machine; the prose's claims hold after it too."""
    before = tracked()
    folder = make_workplace(tmp_path / "clone")
    made = quickstart.run(quickstart.notebook_of(PAGE), folder)
    assert tracked() == before, "the quickstart writes into the repository"
    trained = next(i for i, cell in enumerate(code_cells(made)) if "trainer.train()" in cell.source)
    for i, (cell, shown) in enumerate(zip(code_cells(made), code_cells(committed), strict=True)):
        kinds = [[output.output_type for output in each.outputs] for each in (cell, shown)]
        assert kinds[0] == kinds[1], cell.source
        if i < trained:
            assert quickstart.printed(cell) == quickstart.printed(shown)
    *_, explained, saved, said = map(quickstart.printed, code_cells(made))
    assert 0.8 < float(explained.split()[0]) < 0.9
    assert saved == quickstart.printed(code_cells(committed)[-2])
    right = [line for line in said.splitlines() if len(set(line.split(" -> "))) == 1]
    assert 2 <= len(right) < 5, said
