"""The schema against the tables that are shipped, made and documented."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.api import types

from cbsae_hub import NeuronTable
from cbsae_hub.neurons.table import COLUMNS, NEURON_COLUMNS, columns_in_markdown, describe_column, rows_of

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent for path in (ROOT / "hub").glob("*/neurons.parquet"))
KINDS = {"int": int, "float": (int, float), "text": str, "bool": bool}


def python(value):
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_schema_describes_every_column_of_the_shipped_tables(folder):
    frame = NeuronTable.read(folder).frame
    for name, values in frame.items():
        column = describe_column(name)
        assert column is not None, f"{name} is not in the schema"
        assert not column.required or name in NEURON_COLUMNS
        single = column.dtype.removesuffix("s")
        if single != column.dtype:
            assert all(isinstance(python(one), KINDS[single]) for row in values for one in row), name
        elif column.dtype in ("int", "float"):
            assert getattr(types, f"is_{'integer' if column.dtype == 'int' else 'float'}_dtype")(values), name
        else:
            assert all(value is None or isinstance(python(value), KINDS[single]) for value in values), name


def test_no_column_is_described_twice_and_a_strange_one_not_at_all():
    names = [name for folder in SHIPPED for name in pd.read_parquet(folder / "neurons.parquet").columns]
    for name in {*names, *NEURON_COLUMNS, "added", "steer_clip_white"}:
        assert sum(column.describes(name) for column in COLUMNS) == 1, name
    for name in ("my_notes", "steer_text", "said_unit_random_random", "names_"):
        assert describe_column(name) is None


def test_rows_of_which_little_is_known_are_a_table():
    frame = rows_of({"name": ["cat", None], "neuron": [3, 4], "ap_my kind": [0.5, 0.1]})
    assert frame.columns.tolist() == [*NEURON_COLUMNS, "ap_my kind"][: -1 - 5] + [
        "truth", "truth_family", "truth_ap", "truth_auroc", "truth_agrees", "ap_my kind"]  # fmt: skip
    row = NeuronTable(frame)[4]
    assert (row.nearest_neuron, row.truth, row.truth_agrees, row.names, row.histogram) == (-1, None, None, [], [])
    assert np.isnan(row.score) and np.isnan(row.max)
    with pytest.raises(ValueError, match="no column colour: describe it in COLUMNS"):
        rows_of({"neuron": [1], "colour": ["red"]})


def test_the_page_has_the_columns_of_the_schema():
    page = (ROOT / "docs" / "neuron-table.md").read_text(encoding="utf-8")
    assert columns_in_markdown() in page, "run python docs/api_page.py"
    assert len(re.findall(r"^\| `", columns_in_markdown(), re.MULTILINE)) == len(COLUMNS)
