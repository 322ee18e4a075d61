import logging
import os

import pytest

from cbsae_hub.data.image_files import NoImages, arrange, list_folder


def pictures(**counts):
    """Paths with "." for "/": pictures(cat=2) is cat/0.png and cat/1.png."""
    return sorted(f"{folder.replace('.', '/')}/{i}.png" for folder, count in counts.items() for i in range(count))


def sizes(files, card=()):
    return {split: len(part) for split, part in arrange(sorted(files), dict(card)).splits.items()}


def configs(*told):
    return {"configs": [{"config_name": "default", "data_files": list(told)}]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (pictures(cat=1, dog=1, bus=1, train=3), {"train": 6}),
        (pictures(cat=1, test=2, train=3), {"train": 6}),
        (["a.png", "photo of a train.png", "test.png", "val 2.png"], {"train": 4}),
        (["train_1.png", "test_1.png"], {"train": 2}),
        (pictures(train=3, test=1), {"train": 3, "test": 1}),
        (pictures(train=3, test=1) + ["cover.png"], {"train": 3, "test": 1}),
        (pictures(Train=3, Test=1), {"train": 3, "test": 1}),
        (pictures(train=3, val=2, test=1), {"train": 3, "validation": 2, "test": 1}),
        (pictures(train2017=3, val2017=2), {"train": 3, "validation": 2}),
        (pictures(train_images=3, test_images=2), {"train": 3, "test": 2}),
        (["a/imagenet-train/1.png", "a/imagenet-val/1.png"], {"train": 1, "validation": 1}),
        (pictures(**{"train.cat": 2, "train.dog": 2, "test.cat": 1}), {"train": 4, "test": 1}),
        (pictures(**{"data.train": 2, "data.test": 1, "assets": 1}), {"train": 2, "test": 1}),
        (pictures(**{"bottle.train.good": 2, "bottle.test.broken": 1, "nut.train.good": 1}), {"train": 3, "test": 1}),
        (pictures(train=3), {"train": 3}),
        (pictures(test=3), {"test": 3}),
        (pictures(train=1) + [f"{i}.png" for i in range(9)], {"train": 10}),
        (pictures(cat=9, **{"x.train": 1, "x.test": 1}), {"train": 11}),
        (pictures(**{"toy train": 1, "steam train": 2}), {"train": 3}),
        (pictures(**{"train": 1, "test tube": 2}), {"train": 3}),
        (pictures(**{"pregnancy test": 2}), {"train": 2}),
    ],
)
def test_folders_are_splits_where_all_are_named_so(files, expected):
    assert sizes(files) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["data.parquet", "train.parquet"], {"train": 2}),
        (["train.parquet", "test.parquet"], {"train": 1, "test": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["train-00000-of-00001.parquet", "validation-00000-of-00001-6f5a.parquet"], {"train": 1, "validation": 1}),
        (["data/probe-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], {"test": 1, "probe": 1}),
        (["part-00000-of-00002.parquet", "part-00001-of-00002.parquet"], {"train": 2}),
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": 1, "test": 1}),
        (["train_0.parquet", "train_1.parquet", "test_0.parquet"], {"train": 2, "test": 1}),
        (["my-train.parquet", "my-test.parquet"], {"train": 1, "test": 1}),
        (["a train.parquet", "the test.parquet"], {"train": 2}),
        (["A.PARQUET"], {"train": 1}),
        (["train.zip", "test.zip"], {"train": 1, "test": 1}),
        (["pictures.zip"], {"train": 1}),
    ],
)
def test_parquet_files_and_archives_are_splits_where_all_are_named_so(files, expected):
    assert sizes(files) == expected


@pytest.mark.parametrize(
    ("files", "labelled"),
    [
        (pictures(cat=1, train=3), True),
        (pictures(train=3, test=1), False),
        (pictures(**{"train.cat": 1, "test.cat": 1, "test.dog": 1}), True),
        (pictures(**{"train.cat": 1, "test": 1}), False),
        (pictures(cat=2), False),
        (pictures(cat=2, dog=1) + ["cover.png"], False),
        (pictures(**{"cat.train": 1, "cat.test": 1, "dog.train": 1}), False),
        (pictures(**{"a.cat": 1, "b.dog": 1}), True),
        (["1.png", "2.png"], False),
    ],
)
def test_folders_are_labels_below_the_splits(files, labelled):
    assert arrange(files, {}).options == {"drop_labels": not labelled}


def test_labels_with_splits_from_a_card():
    def labelled(*told, files):
        return not arrange(files, configs(*told)).options["drop_labels"]

    splits = {"split": "a", "path": "x/**"}, {"split": "b", "path": "y/**"}
    assert not labelled(*splits, files=pictures(x=2, y=1))
    assert labelled(*splits, files=pictures(**{"x.cat": 2, "y.cat": 1, "y.dog": 1}))
    assert labelled({"split": "a", "path": "**"}, files=pictures(cat=2, dog=1))


def test_metadata_go_with_the_folder_of_their_split():
    files = [*pictures(train=2, test=1), "train/metadata.csv", "metadata.jsonl"]
    layout = arrange(files, {})
    assert layout.splits == {"train": ["train/0.png", "train/1.png", "train/metadata.csv"], "test": ["test/0.png"]}
    assert layout.left_out == ["metadata.jsonl"]
    assert layout.has_metadata("train") and not layout.has_metadata("test")
    assert layout.images("train") == ["train/0.png", "train/1.png"]
    layout = arrange(["metadata.csv", "test.zip", "train.zip"], {})
    assert (set(layout.splits), layout.left_out) == ({"train", "test"}, ["metadata.csv"])
    assert arrange(["metadata.parquet", "a.png"], {}).splits == {"train": ["a.png", "metadata.parquet"]}
    assert arrange(["metadata.parquet"], {}).kind == "parquet"


def test_what_most_files_are_is_read_and_the_rest_is_named():
    layout = arrange(["a.heic", "b.JPG", "c.jpeg", "d.parquet", "e.txt", "f.zip"], {})
    assert layout.splits == {"train": ["b.JPG", "c.jpeg"]}
    assert layout.left_out == ["a.heic", "d.parquet", "f.zip"]
    layout = arrange(["a.parquet", "b.parquet", "plot.png"], {})
    assert (layout.kind, layout.left_out) == ("parquet", ["plot.png"])
    assert arrange([*pictures(train=2, test=1), "cover.png"], {}).left_out == ["cover.png"]
    shards = ["data/train-00000-of-00001.parquet", "data/extra.parquet"]
    assert arrange(shards, {}).left_out == ["data/extra.parquet"]


def test_names_of_splits_beside_others_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        arrange(pictures(cat=1, train=2), {})
        arrange(["photo of a train.png", "test tube.png"], {})
    assert not caplog.records
    for files in (pictures(cat=1, test=1, train=2), ["a.png", "train_1.png", "test_1.png"]):
        caplog.clear()
        arrange(files, {})
        assert "not taken for splits" in caplog.text and "configs" in caplog.text


def test_a_card_says_what_the_splits_are(caplog):
    files = ["data/test-0.parquet", "data/test_grey-0.parquet", "data/train-0.parquet", "extra.parquet", "logo.png"]
    layout = arrange(files, configs({"split": "test", "path": "data/test-*"}, {"split": "x", "path": ["./data/tr*"]}))
    assert layout.splits == {"test": ["data/test-0.parquet"], "x": ["data/train-0.parquet"]}
    assert layout.left_out == ["data/test_grey-0.parquet", "extra.parquet"]
    layout = arrange(files, configs({"split": "train", "path": "data/*"}, {"split": "none", "path": "gone-*"}))
    assert set(layout.splits) == {"train"} and "no files of the splits none" in caplog.text
    layout = arrange(["a.png", "b.heic", "c.png"], configs({"split": "train", "path": ["a*", "b*"]}))
    assert (layout.splits, layout.left_out) == ({"train": ["a.png"]}, ["b.heic", "c.png"])
    with pytest.raises(NoImages, match="name none of its files"):
        arrange(files, configs({"split": "train", "path": "gone"}))


def test_configurations_of_a_card():
    files = ["a/train.parquet", "b/train.parquet", "b/test.parquet"]
    card = {"configs": [{"config_name": "a", "data_files": "a/*"}, {"config_name": "b", "data_dir": "b"}]}
    with pytest.raises(ValueError, match="configurations a, b"):
        arrange(files, card)
    card["configs"][1]["default"] = True
    layout = arrange(files, card)
    assert layout.splits == {"train": ["b/train.parquet"], "test": ["b/test.parquet"]}
    assert (layout.config, layout.left_out) == ("b", [])
    card["configs"][0].update(default=True, drop_labels=True)
    del card["configs"][1]["default"]
    layout = arrange(files, card)
    assert (layout.config, layout.options, layout.left_out) == ("a", {"drop_labels": True}, [])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no files"),
        (["a.csv", "b.csv", "LICENSE"], "2 .csv, 1 without an extension$"),
        (["a.heic"], "1 .heic: save the pictures as PNG"),
    ],
)
def test_what_holds_no_pictures_says_what_it_holds(files, message):
    with pytest.raises(NoImages, match=message):
        arrange(files, {})


def test_a_folder_is_listed_with_links_and_without_what_is_hidden(tmp_path, caplog):
    for name in ["b/2.png", "b/1.png", "a.png", ".x.png", ".git/y.png", "__MACOSX/z.png", "__background__/w.png"]:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.png").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "c")
    os.symlink(tmp_path / "set", tmp_path / "set" / "b" / "back")
    os.symlink(tmp_path / "set" / "b", tmp_path / "elsewhere" / "other")
    os.symlink("nothing.png", tmp_path / "set" / "b" / "nowhere.png")
    files = list_folder(tmp_path / "set", strict=False)
    assert "b/nowhere.png" in caplog.text
    with pytest.raises(FileNotFoundError, match="b/nowhere.png"):
        list_folder(tmp_path / "set")
    assert files == ["__background__/w.png", "a.png", "b/1.png", "b/2.png", "c/3.png", "c/other/1.png", "c/other/2.png"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="cat"):
        list_folder(tmp_path)
