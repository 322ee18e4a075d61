import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from cbsae_hub.scoring import Truth


class Rows(dict):
    def __len__(self):
        return 24


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
