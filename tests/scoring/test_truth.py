import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from cbsae_hub.scoring import Truth


class Rows(dict):
    def __len__(self):
        return 24


class FiftyRows(dict):
    def __len__(self):
        return 50


ROWS = Rows(
    things=[[{"name": "dog"}, {"name": "cat"}]] * 10 + [[{"name": "cat"}]] * 2 + [[{"name": "owl"}]] * 9 + [[]] * 3,
    place=["grass"] * 12 + [None] * 12,
    word=["pizza", None, "boat"] * 8,
)


def test_labels_of_each_kind():
    truth = Truth.read(ROWS, {"thing": "things.name", "place": "place", "word": "word?"})
    assert truth.labels == [("thing", "cat"), ("thing", "dog"), ("place", "grass"), ("word", "word")]
    assert truth.too_rare == {"thing": 1, "place": 0, "word": 0}, "nine owls prove nothing"
    expected = [["cat" in (n["name"] for n in row) for row in ROWS["things"]], [p == "grass" for p in ROWS["place"]]]
    np.testing.assert_array_equal(truth.matrix[:, [0, 2]].T, expected)
    np.testing.assert_array_equal(truth.matrix[:, 3], [w is not None for w in ROWS["word"]])
    assert truth.columns("thing").tolist() == [0, 1]


def test_the_class_of_an_image_is_its_only_label_of_the_first_kind():
    names, classes = Truth.read(ROWS, {"thing": "things.name", "place": "place"}).classes()
    assert names == ["cat", "dog"]
    assert classes.tolist() == [-1] * 10 + [0] * 2 + [-1] * 12


def test_nothing_is_known():
    truth = Truth.read(ROWS, {})
    assert truth.matrix.shape == (24, 0) and truth.classes()[0] == []
    with pytest.raises(ValueError, match="no column 'style'"):
        Truth.read(ROWS, {"style": "style?"})


def test_class_labels_go_by_their_first_name():
    names = ["tench, Tinca tinca", "maillot", "maillot, tank suit", "crane"]
    features = Features({"label": ClassLabel(names=names)})
    images = Dataset.from_dict({"label": [0, 1, 2, -1, 3] * 10}, features=features)
    truth = Truth.read(images, {"class": "label"})
    assert truth.classes()[0] == ["crane", "maillot", "maillot, tank suit", "tench"]
    assert truth.classes()[1].tolist() == [3, 1, 2, -1, 0] * 10


def labels_of(images, column, rows=10):
    """Labels of each of the first rows, as names."""
    truth = Truth.read(images, {"x": column})
    return [{name for (_, name), own in zip(truth.labels, row) if own} for row in truth.matrix[:rows]]


def test_each_of_several_labels_counts():
    rows = [["cat", "dog"], ["cat", "cat"], [], None, ["", None, "dog"]]
    expected = [{"cat", "dog"}, {"cat"}, set(), set(), {"dog"}]
    assert labels_of(Dataset.from_dict({"label": rows * 10}), "label", 5) == expected
    arrays = FiftyRows(label=[np.array(row or [], dtype=object) for row in rows * 10])
    assert labels_of(arrays, "label", 5) == expected


def test_whole_numbers_are_labels_as_people_write_them():
    assert labels_of(Dataset.from_dict({"label": [0, 1] * 10}), "label", 2) == [{"0"}, {"1"}]
    assert labels_of(Dataset.from_dict({"label": [0.0, 1.0, None, float("nan")] * 10}), "label", 4) == [
        {"0"}, {"1"}, set(), set()
    ]  # fmt: skip
    assert Truth.read(Dataset.from_dict({"label": [0.0, 1.0] * 10}), {"x": "label"}).classes()[0] == ["0", "1"]


def test_an_empty_text_is_no_label():
    images = Dataset.from_dict({"label": ["cat", "", None, " "] * 10})
    truth = Truth.read(images, {"x": "label", "y": "label?"})
    assert truth.labels == [("x", "cat"), ("y", "label")] and truth.too_rare == {"x": 0, "y": 0}
    assert truth.matrix[:4].tolist() == [[True, True], [False, False], [False, False], [False, False]]


def test_classes_in_lists_and_records_go_by_their_names():
    kind = ClassLabel(names=["tench, Tinca tinca", "cat"])
    columns = {"many": List(kind), "things": List({"kind": kind}), "objects": {"kind": List(kind)}}
    rows = [[0, 1], [1], [], [0, -1]]
    images = Dataset.from_dict(
        {
            "many": rows * 10,
            "things": [[{"kind": number} for number in row] for row in rows] * 10,
            "objects": [{"kind": row} for row in rows] * 10,
        },
        Features(columns),
    )
    expected = [{"tench", "cat"}, {"cat"}, set(), {"tench"}]
    for column in ("many", "things.kind", "objects.kind"):
        assert labels_of(images, column, 4) == expected


def test_records_need_a_field():
    images = Dataset.from_dict(
        {"things": [[{"name": "cat", "box": 1}]] * 20},
        Features({"things": List({"name": Value("string"), "box": Value("int64")})}),
    )
    with pytest.raises(ValueError, match=r"column 'things' .* records \(name, box\).*name one, things.FIELD"):
        Truth.read(images, {"x": "things"})
    with pytest.raises(ValueError, match="no records with 'colour'"):
        Truth.read(images, {"x": "things.colour"})
    with pytest.raises(ValueError, match="no records with 'x'"):
        Truth.read(Dataset.from_dict({"label": ["cat"] * 20}), {"x": "label.x"})
    assert labels_of(images, "things?", 1) == [{"things"}]
    assert labels_of(images, "things.name?", 1) == [{"things.name"}]
    with pytest.raises(ValueError, match="no records with 'colour'"):
        Truth.read(images, {"x": "things.colour?"})


def test_false_and_no_class_are_not_there():
    flags = {"flag": [True, False, None] * 10, "flags": [[False, True], [False], []] * 10, "class": [0, -1, None] * 10}
    kinds = {"flag": Value("bool"), "flags": List(Value("bool")), "class": ClassLabel(names=["cat"])}
    images = Dataset.from_dict(flags, Features(kinds))
    for column in flags:
        assert labels_of(images, f"{column}?", 3) == [{column}, set(), set()]
    assert labels_of(Dataset.from_dict({"count": [3, 0] * 10}), "count?", 2) == [{"count"}] * 2, "0 is a label"


def test_a_column_that_is_missing_is_told_with_those_that_are_there():
    images = Dataset.from_dict({"label": ["cat"] * 20, "caption": [""] * 20})
    for column in ("lable", "lable?", "lable.name"):
        with pytest.raises(ValueError, match="the images have no column 'lable'; they have label, caption"):
            Truth.read(images, {"x": column})


def test_labels_that_are_all_too_rare_are_told(caplog):
    images = Dataset.from_dict({"label": [str(row // 9) for row in range(36)], "kind": ["a"] * 36})
    Truth.read(images, {"x": "label", "y": "kind"})
    assert caplog.messages == [
        "no label of the column 'label' is on 10 images or more (the most frequent one is on 9): "
        "neurons are not compared with any"
    ]


def test_a_column_without_any_label_is_told(caplog):
    Truth.read(Dataset.from_dict({"label": ["", None] * 12}), {"x": "label"})
    assert caplog.messages == ["the column 'label' has no labels: neurons are not compared with any"]
