import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from cbsae_hub.data.labels import class_names, find_captions, find_labels, words_in


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


PAIRS = ["cat", "dog"] * 4
SENTENCES = [f"this is picture number {i}" for i in range(8)]


@pytest.mark.parametrize(
    ("name", "values", "is_label"),
    [
        ("anything", PAIRS, True),
        ("anything", [*PAIRS[:7], None], True),
        ("anything", ["cat"] * 8, False),  # one value
        ("anything", ["a", "a", *"bcdefg"], False),  # hardly any returns
        ("anything", ["a", "a", "b", "c", "d", "d", "", None], False),  # six pictures, four values
        ("anything", ["a", "a", "b", "b", "c", "d", "d", "c"], True),
        ("anything", [["red", "big"], ["red"], [], ["big"], ["red", "big"], [], [], []], True),
        ("anything", [["red", "red"], ["big", "big"], [], [], [], [], [], []], False),  # each once a picture
        ("anything", ["a cat that sits on a mat and looks", "a dog that sits on a mat and barks"] * 4, False),
        ("anything", ["https://a.org/1", "https://a.org/2"] * 4, False),
        ("anything", [{"name": "cat"}] * 8, False),
        ("anything", [0.5, 1.5] * 4, False),
        ("anything", [True, False] * 4, False),
        ("width", [640, 480] * 4, False),
        ("label", [0, 1] * 4, True),
        ("fine_label", [0, 1] * 4, True),
        ("Class", [3, 7] * 4, True),
        ("labels", [[0, 1], [1], [0], [1]] * 2, True),
        ("target", list(range(8)), False),
    ],
)
def test_columns_whose_short_values_return_are_labels(name, values, is_label):
    images = Dataset.from_dict({"n": list(range(8)), name: values})
    assert find_labels(images) == ((name,) if is_label else ())


def test_classes_are_labels_by_their_names():
    features = Features({"x": ClassLabel(names=["a", "b", "c"]), "several": List(ClassLabel(names=["u", "v"]))})
    images = Dataset.from_dict({"x": [0, 1] * 4, "several": [[0, 1], [1], [0], []] * 2}, features)
    assert find_labels(images) == ("x", "several")
    assert find_labels(images.select([0, 1, 2])) == ("several",)  # 3 pictures of 2 classes
    assert find_labels(images.select([0, 2, 4, 6])) == ("several",)  # only class a


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": SENTENCES}, "text"),
        ({"Caption": SENTENCES, "text": SENTENCES}, "Caption"),
        ({"title": SENTENCES, "description": SENTENCES}, "description"),
        ({"blip_caption": SENTENCES}, "blip_caption"),
        ({"captions": [[s, s + "!"] for s in SENTENCES]}, "captions"),
        ({"caption": [None] * 7 + ["a cat"]}, "caption"),
        ({"caption": [None] * 8, "txt": SENTENCES}, "txt"),
        ({"caption": ["https://a.org"] * 8}, None),
        ({"caption": list(range(8))}, None),
        ({"caption": [{"text": "a"}] * 8}, None),
        ({"text_length": SENTENCES, "subtext": SENTENCES, "context": SENTENCES}, None),
    ],
)
def test_the_column_of_captions_is_recognised_by_its_name_and_its_texts(columns, expected):
    assert find_captions(Dataset.from_dict({**columns, "n": list(range(8))})) == expected


def test_captions_are_no_labels_though_they_return():
    images = Dataset.from_dict({"caption": ["a cat", "a dog"] * 4, "kind": PAIRS})
    assert find_captions(images) == "caption" and find_labels(images, besides="caption") == ("kind",)
