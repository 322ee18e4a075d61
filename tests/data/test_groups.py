"""Groups of images by columns of CSV, of Parquet and of a dataset."""

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cbsae_hub.data.groups import group_images, read_split, read_table

LABELS = pd.DataFrame(
    {
        "file": [f"birds/{i}.png" for i in range(8)],
        "y": [0, 0, 0, 1, 1, 1, 0, 1],
        "place": [0, 1, 0, 1, 0, 1, 1, 0],
        "part": [0, 0, 0, 0, 1, 1, 1, 1],
    }
)
ATTRIBUTE, TARGET = ("place", [1]), ("y", {"land": [0], "water": [1]})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "birds").mkdir()
    for i, file in enumerate(LABELS["file"]):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / file)
    LABELS.to_csv(tmp_path / "labels.csv", index=False)
    LABELS.drop(columns="part").to_csv(tmp_path / "short.csv", index=False)
    LABELS[["file", "part"]].sample(frac=1, random_state=0).to_parquet(tmp_path / "parts.parquet", index=False)
    return tmp_path


@pytest.mark.parametrize("tables", [["labels.csv"], ["short.csv", "parts.parquet"]])
def test_tables_beside_pictures(folder, tables):
    images = read_split(folder, "1", tables, "file", "part")
    assert [np.asarray(one)[0, 0, 0] for one in images["image"]] == [80, 100, 120, 140]
    grouped = group_images(images, ATTRIBUTE, TARGET)
    assert grouped.attribute.tolist() == [False, True, True, False]
    assert grouped.targets.tolist() == [1, 1, 0, 1] and grouped.classes == ("land", "water")
    assert grouped.counts() == {"land, without attribute": 0, "land, with attribute": 1,
                                "water, without attribute": 2, "water, with attribute": 1}  # fmt: skip
    error = "split 1 has no image of land, without attribute .*water, without attribute: 2"
    with pytest.raises(ValueError, match=error):
        grouped.require_all("split 1")


def test_columns_of_a_dataset():
    kind = datasets.ClassLabel(names=["land", "water"])
    features = datasets.Features({"place": kind, "blond": datasets.Value("bool"), "tags": [datasets.Value("string")]})
    rows = {"place": [0, 1, 1], "blond": [True, False, True], "tags": [["a", "b"], [], ["c"]]}
    images = datasets.Dataset.from_dict(rows, features=features)
    grouped = group_images(images, ("place", ["water"]), ("blond", {"no": [False], "yes": [True]}))
    assert grouped.attribute.tolist() == [False, True, True] and grouped.targets.tolist() == [1, 0, 1]
    assert group_images(images, ("tags", ["b", "c"])).attribute.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("attribute", "target", "error"),
    [
        (("where", [1]), TARGET, "the dataset has no column 'where'; it has file, y, place, part"),
        (("place", [7]), TARGET, "no image of the dataset has 7 in place; its values are 0, 1"),
        (("place", [0, 1]), TARGET, "all 8 images of the dataset have the attribute, place = 0, 1: there is nothing"),
        (ATTRIBUTE, ("y", {"land": [0]}), "image 3 of the dataset is of no class: its y is 1"),
        (ATTRIBUTE, ("y", {"land": [0], "water": [0, 1]}), "image 0 of the dataset is of several classes: its y is 0"),
        (ATTRIBUTE, ("y", {"land": [0], "water": [2]}), r"no image .* has 2 in y \(class 'water'\)"),
    ],
)
def test_labels_that_do_not_fit_are_errors(attribute, target, error):
    with pytest.raises(ValueError, match=error):
        group_images(datasets.Dataset.from_pandas(LABELS), attribute, target)


def test_tables_that_do_not_fit_are_errors(folder):
    with pytest.raises(ValueError, match="no column 'name'; it has file, y, place, part"):
        read_table(folder, ["labels.csv"], "name")
    with pytest.raises(ValueError, match="no image of labels.csv has 5 in part; its values are 0, 1"):
        read_split(folder, "5", ["labels.csv"], "file", "part")
    with pytest.raises(ValueError, match="tables need file_column and split_column"):
        read_split(folder, "1", ["labels.csv"])
    with pytest.raises(FileNotFoundError, match="there is no table .*none.csv"):
        read_table(folder, ["none.csv"], "file")
    (folder / "damaged.parquet").write_text("no Parquet")
    with pytest.raises(ValueError, match="damaged.parquet cannot be read"):
        read_table(folder, ["damaged.parquet"], "file")
    LABELS[:5].to_csv(folder / "few.csv")
    with pytest.raises(ValueError, match="few.csv is not about the same pictures as labels.csv"):
        read_table(folder, ["labels.csv", "few.csv"], "file")
    (folder / "birds" / "6.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 pictures of split 1 are not there: .*6.png"):
        read_split(folder, "1", ["labels.csv"], "file", "part")
