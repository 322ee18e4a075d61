import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from cbsae_hub.data.labels import class_names, words_in


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cat", ["cat"]),
        (" a cat ", ["a cat"]),
        (["a cat", "a dog", "a cat"], ["a cat", "a dog"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        ([["a"], ["b", None]], ["a", "b"]),
        (0, ["0"]),
        (1.0, ["1"]),
        (np.float64(3), ["3"]),
        (2.5, ["2.5"]),
        (float("inf"), ["inf"]),
        (True, ["True"]),
        (None, []),
        (float("nan"), []),
        ("", []),
        ("  ", []),
        ([], []),
    ],
)
def test_texts_of_a_cell(value, expected):
    assert words_in(value) == expected


def test_numbers_of_classes_are_their_names():
    assert words_in([0, -1, 1, None], ["cat", "dog"]) == ["cat", "dog"]
    assert words_in(1.0, ["cat", "dog"]) == ["dog"]


def test_records_are_no_texts():
    with pytest.raises(ValueError, match=r"records \(raw, id\)"):
        words_in([{"raw": "a", "id": 3}])


def test_classes_are_found_in_lists_and_records():
    kind = ClassLabel(names=["a", "b"])
    columns = {
        "one": kind,
        "many": List(kind),
        "things": List({"kind": kind, "n": Value("int64")}),
        "n": Value("int64"),
    }
    rows = {"one": [0], "many": [[1]], "things": [[{"kind": 1, "n": 2}]], "n": [3]}
    images = Dataset.from_dict(rows, Features(columns))
    for column in (("one",), ("many",), ("things", "kind")):
        assert class_names(images, *column) == ["a", "b"]
    for column in (("n",), ("things",), ("things", "n"), ("gone",)):
        assert class_names(images, *column) is None
    assert class_names(rows, "one") is None
