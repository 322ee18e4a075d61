import errno
import json
import logging
import os
import shutil

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tar_files import pack

from cbsae_hub.data.collection import collect_images
from cbsae_hub.data.images import commit_of_images, image_batches, load_images, read_images

CARD = """---
configs:
- config_name: default
  data_files:
  - {split: probe, path: data/probe-*}
  - {split: test, path: data/test-*}
---
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def pixels(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), np.uint8))


@pytest.fixture
def parquet(tmp_path):
    """A folder as published on the Hub: Parquet files, with the splits in the card."""
    folder = tmp_path / "pictures"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for seed, split in enumerate(["probe", "test"]):
        features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
        images = [Image.fromarray(p) for p in pixels(7, seed)]
        rows = datasets.Dataset.from_dict({"image": images, "caption": list("abcdefg")}, features)
        rows.to_parquet(folder / "data" / f"{split}-0.parquet")
    return folder


@pytest.fixture
def folder_of_images(tmp_path):
    for name, picture in zip(["cat/1.png", "cat/2.png", "dog/3.png"], pixels(3)):
        path = tmp_path / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path / "animals"


@pytest.mark.parametrize(("split", "seed"), [("probe", 0), ("test", 1)])
def test_parquet_with_splits_in_the_card(parquet, split, seed):
    images = load_images(parquet, split)
    assert [np.asarray(image).tolist() for image in images["image"]] == [p.tolist() for p in pixels(7, seed)]
    assert list(images["caption"]) == list("abcdefg")
    assert commit_of_images(parquet) is None


def test_a_dataset_is_found_beside_a_model(parquet, tmp_path):
    (tmp_path / "sae").mkdir()
    assert len(load_images("someone/pictures", "probe", beside=tmp_path / "sae")) == 7


def test_folder_of_images(folder_of_images):
    images = load_images(folder_of_images, "train")
    assert [np.asarray(image).tolist() for image in images["image"]] == [p.tolist() for p in pixels(3)]
    assert images["label"] == [0, 0, 1]


def fill(folder, *names):
    """Saves a picture under each name, the first all 0, the next all 1, and so on."""
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), shade).save(folder / name)
    return folder


def shades(images):
    return [np.asarray(picture)[0, 0] for picture in images["image"]]


def label_names(images):
    return [images.features["label"].names[number] for number in images["label"]]


def test_a_class_may_be_called_as_a_split(tmp_path):
    fill(tmp_path / "a", "bus/0.png", "cat/1.png", "dog/2.png", "train/3.png", "train/4.png", "train/5.png")
    images = load_images(tmp_path / "a", "train")
    assert images.features["label"].names == ["bus", "cat", "dog", "train"]
    assert shades(images) == list(range(6))
    assert label_names(images) == ["bus", "cat", "dog", "train", "train", "train"]


def test_a_picture_may_be_called_as_a_split(tmp_path):
    fill(tmp_path / "a", "bus.png", "photo of a train.png", "test.png", "val_1.png")
    images = load_images(tmp_path / "a", "train")
    assert shades(images) == [0, 1, 2, 3] and images.column_names == ["image"]


def test_parquet_may_be_called_data(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "a").mkdir()
    for shade, name in enumerate(["data", "train"]):
        rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4), shade)]}, features)
        rows.to_parquet(tmp_path / "a" / f"{name}.parquet")
    assert shades(load_images(tmp_path / "a", "train")) == [0, 1]


def test_folders_of_splits_are_splits(tmp_path, caplog):
    fill(tmp_path / "a", "train/0.png", "train/1.png", "train/2.png", "test/3.png", "cover.png")
    splits = [load_images(tmp_path / "a", split) for split in ("train", "test", "test+train")]
    assert [shades(images) for images in splits] == [[0, 1, 2], [3], [3, 0, 1, 2]]
    assert "1 files are in no split and are left out: cover.png" in caplog.text
    assert splits[0].column_names == ["image"], "a split is no label"
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        load_images(tmp_path / "a", "val")


def test_splits_share_their_classes(tmp_path):
    fill(tmp_path / "a", "train/cat/0.png", "test/cat/1.png", "test/dog/2.png")
    assert label_names(load_images(tmp_path / "a", "train")) == ["cat"]
    assert label_names(load_images(tmp_path / "a", "test")) == ["cat", "dog"]


@pytest.mark.parametrize("name", ["photos[1]", "my [photos] 2024", "what?", "all*", "a:b", "100% #1", "{x}", "~", "[]"])
def test_a_path_is_no_pattern(tmp_path, name):
    fill(tmp_path / name, "cat/0.png", "train/1 [x].png", "train/2*?.PNG")
    for other in ("photos1", "whatx", "all of them", "x"):
        fill(tmp_path / other, *(f"{i}.png" for i in range(5)))
    assert shades(load_images(tmp_path / name, "train")) == [0, 1, 2]
    assert label_names(load_images(name, "train")) == ["cat", "train", "train"]


def test_a_path_that_datasets_takes_for_an_archive_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a::b/0.png.*rename it"):
        load_images(fill(tmp_path / "a::b", "0.png"), "train")


def test_parquet_with_a_card_in_a_folder_with_brackets(parquet, tmp_path):
    parquet.rename(tmp_path / "pictures [1]")
    assert len(load_images("pictures [1]", "probe+test")) == 14
    assert len(load_images("someone/pictures [1]", "probe", beside=parquet.parent / "cache")) == 7


def test_extensions_may_be_large_and_what_is_hidden_is_not_read(tmp_path):
    fill(tmp_path / "a", "cat/0.JPG", "dog/1.Jpeg", "dog/2.PNG")
    for hidden in ("cat/._0.JPG", ".DS_Store", "__MACOSX/cat/0.png", "Thumbs.db"):
        write(tmp_path / "a" / hidden, b"x")
    assert label_names(load_images(tmp_path / "a", "train")) == ["cat", "dog", "dog"]


def test_an_empty_file_is_named(tmp_path):
    fill(tmp_path / "a", "0.png", "1.png")
    write(tmp_path / "a" / "2.png", b"")
    with pytest.raises(ValueError, match=r"image 2 \(.*2.png\) cannot be read"):
        read_images(load_images(tmp_path / "a", "train"), 0, 3)


def test_a_link_to_nothing_is_named(tmp_path):
    fill(tmp_path / "a", "0.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "a" / "1.png")
    with pytest.raises(FileNotFoundError, match="1.png"):
        load_images(tmp_path / "a", "train")


def test_pictures_of_other_kinds_are_named(tmp_path, caplog):
    write(tmp_path / "a" / "0.heic", b"x")
    with pytest.raises(ValueError, match="has 1 .heic: save the pictures as PNG"):
        load_images(tmp_path / "a", "train")
    fill(tmp_path / "a", "0.png")
    assert len(load_images(tmp_path / "a", "train")) == 1
    assert "1 files are in no split and are left out: 0.heic" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_pictures_that_metadata_do_not_list_are_named(tmp_path, caplog, suffix):
    folder = fill(tmp_path / "a", "cat/0.png", "cat/1.png", "train/2.png")
    rows = pd.DataFrame({"file_name": ["train/2.png", "cat/0.png"], "caption": ["a train", "a cat"]})
    if suffix == "csv":
        rows.to_csv(folder / "metadata.csv", index=False)
    elif suffix == "jsonl":
        rows.to_json(folder / "metadata.jsonl", orient="records", lines=True)
    else:
        rows.to_parquet(folder / "metadata.parquet")
    images = load_images(folder, "train")
    assert shades(images) == [2, 0] and list(images["caption"]) == ["a train", "a cat"]
    assert "1 pictures are left out, the metadata do not list them: cat/1.png" in caplog.text


def test_metadata_lie_in_the_folder_of_their_split(tmp_path, caplog):
    folder = fill(tmp_path / "a [1]", "train/0.png", "test/1.png")
    for split, name in (("train", "0.png"), ("test", "1.png")):
        (folder / split / "metadata.csv").write_text(f"file_name,caption\n{name},{split}ed\n")
    assert list(load_images(folder, "test")["caption"]) == ["tested"]
    assert not caplog.records


def test_a_changed_folder_is_read_again(tmp_path):
    fill(tmp_path / "a", "0.png", "1.png")
    assert shades(load_images(tmp_path / "a", "train")) == [0, 1]
    fill(tmp_path / "a", "2.png")
    assert shades(load_images(tmp_path / "a", "train")) == [0, 1, 0]


def test_a_damaged_card_is_named(tmp_path):
    (fill(tmp_path / "a", "0.png") / "README.md").write_text("---\nconfigs: [\n---\n")
    with pytest.raises(ValueError, match="no image dataset at '.*a': while parsing"):
        load_images(tmp_path / "a", "train")


def test_a_card_says_how_to_read(tmp_path, caplog):
    folder = fill(tmp_path / "a", "cat/0.png", "dog/1.png")
    config = "{config_name: default, data_files: '**', drop_labels: true, colour: red}"
    (folder / "README.md").write_text(f"---\nconfigs: [{config}]\n---\n")
    assert load_images(folder, "train").column_names == ["image"]
    assert "not understood: colour" in caplog.text


def test_a_card_says_what_columns_are(tmp_path):
    folder = fill(tmp_path / "a", "x/0.png")
    kinds = "[{name: image, dtype: image}, {name: label, dtype: {class_label: {names: {'0': cat, '1': dog}}}}]"
    (folder / "README.md").write_text(f"---\ndataset_info: {{features: {kinds}}}\n---\n")
    content = (folder / "x" / "0.png").read_bytes()
    pd.DataFrame({"image": [{"bytes": content, "path": None}], "label": [1]}).to_parquet(folder / "train.parquet")
    images = load_images(folder, "train")
    assert label_names(images) == ["dog"] and shades(images) == [0]


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"bytes": b, "path": "x.png"}, lambda b: {"bytes": b}])
def test_parquet_of_pandas_holds_pictures(tmp_path, wrap):
    folder = fill(tmp_path / "a", "x/0.png", "x/1.png")
    contents = [(folder / "x" / f"{i}.png").read_bytes() for i in range(2)]
    images = [wrap(contents[0]), None, wrap(contents[1])]
    pd.DataFrame({"image": images, "caption": ["a", "b", "c"]}).to_parquet(folder / "pictures.parquet")
    shutil.rmtree(folder / "x")
    images = load_images(folder, "train")
    assert [np.asarray(picture)[0, 0].tolist() for picture in read_images(images.select([0, 2]), 0, 2)] == [
        [0] * 3,
        [1] * 3,
    ]
    with pytest.raises(ValueError, match="image 1 is missing"):
        read_images(images, 0, 3)
    assert list(images["caption"]) == ["a", "b", "c"]


@pytest.mark.parametrize("cause", [PermissionError(errno.EACCES, "denied"), OSError(errno.ENOSPC, "no space left")])
@pytest.mark.parametrize("when", ["makedirs", "write"])
def test_a_cache_that_cannot_be_written_is_no_missing_dataset(folder_of_images, monkeypatch, cause, when):
    def fail(*args, **options):
        raise cause

    if when == "makedirs":
        monkeypatch.setattr("datasets.builder.os.makedirs", fail)
    else:
        monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write_batch", fail)
        monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write", fail)
    with pytest.raises(type(cause)) as caught:
        load_images(folder_of_images, "train")
    assert caught.value.errno == cause.errno and "dataset" not in str(caught.value)


@pytest.fixture
def on_the_hub(hub, monkeypatch):
    """Puts a folder on the stand-in Hub, and says its id."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", huggingface_hub.constants.ENDPOINT)
    monkeypatch.setattr(huggingface_hub.HfFileSystem, "_cache", {})

    def put(folder):
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
        hub.files["datasets/someone/photos"] = {"c" * 40: files, "main": files}
        return "someone/photos"

    return put


def test_datasets_of_the_hub_are_read_as_folders_are(on_the_hub, tmp_path):
    source = on_the_hub(fill(tmp_path / "a", "bus/0 [1].png", "cat/1.png", "train/2.png", "train/3.heic.png"))
    images = load_images(source, "train")
    assert label_names(images) == ["bus", "cat", "train", "train"] and shades(images) == [0, 1, 2, 3]
    assert commit_of_images(source) == "c" * 40


def test_metadata_and_splits_on_the_hub(on_the_hub, tmp_path, caplog):
    folder = fill(tmp_path / "a", "train/0.png", "train/1.png", "test/2.png", "logo.png")
    (folder / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "caption": "one"}))
    source = on_the_hub(folder)
    with caplog.at_level(logging.WARNING):
        images = load_images(source, "train")
    assert shades(images) == [1] and list(images["caption"]) == ["one"]
    assert "left out: logo.png" in caplog.text and "do not list them: train/0.png" in caplog.text


def test_a_card_on_the_hub(on_the_hub, parquet):
    assert len(load_images(on_the_hub(parquet), "test+probe")) == 14


def test_tars_and_saved_datasets_on_the_hub(on_the_hub, tmp_path):
    content = (fill(tmp_path / "a", "0.png", "1.png") / "1.png").read_bytes()
    for split in ("train", "val"):
        pack(tmp_path / "t" / f"{split}-000.tar", [("1.png", content), ("1.txt", split.encode())])
    images = load_images(on_the_hub(tmp_path / "t"), "validation")
    assert shades(images) == [1] and images["caption"][:] == ["val"]
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4), 7)]})
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "s")
    assert shades(load_images(on_the_hub(tmp_path / "s"), "test")) == [7]


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_of_the_hub_are_collected_at_one_commit(on_the_hub, tmp_path, streaming):
    source = on_the_hub(fill(tmp_path / "a", "cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png"))
    pictures = collect_images(source, tmp_path / "c", streaming=streaming, max_images=4)
    assert sorted(shades(pictures.images)) == [0, 1, 2, 3] and pictures.labels == ("label",)
    assert (pictures.source["id"], pictures.source["revision"]) == ("someone/photos", "c" * 40)
    assert shades(load_images(tmp_path / "c", "train")) == shades(pictures.images)


def test_an_unknown_dataset_or_revision_of_the_hub(on_the_hub, folder_of_images):
    source = on_the_hub(folder_of_images)
    with pytest.raises(FileNotFoundError, match="no image dataset at 'someone/none'"):
        load_images("someone/none", "train")
    with pytest.raises(FileNotFoundError, match="no image dataset at 'someone/photos'"):
        load_images(source, "train", revision="v9")


def test_a_folder_may_be_called_as_a_file_format(folder_of_images, tmp_path):
    folder_of_images.rename(tmp_path / "parquet")
    assert len(load_images("parquet", "train")) == 3


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: None, FileNotFoundError, "existing folder or a Hub id"),
        (lambda f: f.mkdir(), FileNotFoundError, "no image dataset at '.*x': it holds no files"),
        (
            lambda f: write(f / "x.py", b"raise SystemExit"),
            ValueError,
            "neither Parquet nor images nor tars, but has 1 .py",
        ),
        (
            lambda f: write(f / "x.csv", b"image\n1\n"),
            ValueError,
            "neither Parquet nor images nor tars, but has 1 .csv",
        ),
        (lambda f: write(f / "x.parquet", b"PAR1" + bytes(99)), ValueError, "[Pp]arquet"),
    ],
)
def test_what_is_no_image_dataset_is_refused(tmp_path, make, error, message):
    make(tmp_path / "x")
    with pytest.raises(error, match=message):
        load_images(tmp_path / "x", "train")


def test_missing_splits_and_columns_are_named(parquet, tmp_path):
    with pytest.raises(ValueError, match="no split 'train'; it has probe, test"):
        load_images(parquet, "train")
    (tmp_path / "numbers").mkdir()
    datasets.Dataset.from_dict({"image": [1, 2], "n": [3, 4]}).to_parquet(tmp_path / "numbers" / "a.parquet")
    with pytest.raises(ValueError, match=r"no column 'image' of images; it has image \(Value\), n \(Value\)"):
        load_images(tmp_path / "numbers", "train")


@pytest.mark.parametrize("source", ["someone/none", "parquet", "a/b/c", "animals/cat/1.png"])
def test_an_unknown_name_is_an_error_that_names_it(folder_of_images, source):
    with pytest.raises(FileNotFoundError, match=f"no image dataset at '{source}'"):
        load_images(source, "train")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no image", lambda b: b[:20] + b"x" * 30])
def test_a_broken_image_is_named(folder_of_images, damage):
    victim = folder_of_images / "cat" / "2.png"
    victim.write_bytes(damage(victim.read_bytes()))
    images = load_images(folder_of_images, "train")
    assert len(read_images(images, 2, 3)) == 1
    with pytest.raises(ValueError, match=r"image 1 \(.*cat/2.png\) cannot be read"):
        read_images(images, 0, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_batches_cover_each_image_once(parquet, batch_size):
    batches = list(image_batches(load_images(parquet, "probe"), batch_size))
    assert [i for ids, _ in batches for i in ids] == list(range(7))
    assert {len(ids) for ids, _ in batches[:-1]} <= {batch_size}
    every = [np.asarray(picture).tolist() for _, pictures in batches for picture in pictures]
    assert every == [p.tolist() for p in pixels(7)]


def test_batches_can_be_shared_out(parquet):
    images = load_images(parquet, "probe")
    shares = [[list(ids) for ids, _ in image_batches(images, 2, first, 3)] for first in range(3)]
    assert shares == [[[0, 1], [6]], [[2, 3]], [[4, 5]]]
    assert [list(ids) for ids, _ in image_batches(images, 2, 1 + 3, 3)] == []


def test_several_splits_follow_one_another(parquet):
    both = load_images(parquet, "test+probe")
    expected = pixels(7, 1) + pixels(7, 0)
    assert [np.asarray(image).tolist() for image in both["image"]] == [p.tolist() for p in expected]
    with pytest.raises(ValueError, match="no split 'train'; it has probe, test"):
        load_images(parquet, "probe+train")


def test_a_missing_image_is_named(tmp_path):
    features = datasets.Features({"image": datasets.Image()})
    rows = [Image.fromarray(p) for p in pixels(3)]
    images = datasets.Dataset.from_dict({"image": [rows[0], None, rows[2]]}, features)
    with pytest.raises(ValueError, match="image 1 is missing"):
        read_images(images, 0, 3)
    assert len(read_images(images, 2, 3)) == 1


def test_a_picture_that_has_no_white_is_named_by_its_row():
    pictures = [Image.new("RGB", (4, 4)), Image.fromarray(np.full((4, 4), 0.5, np.float32))]
    with pytest.raises(ValueError, match=r"image 1 cannot be read: .*scale"):
        read_images(ListOfPictures(pictures), 0, 2)


class ListOfPictures(list):
    """Rows as a data set gives them."""

    def __getitem__(self, rows):
        return {"image": list.__getitem__(self, rows)}


def column_of(tmp_path, **columns):
    folder = tmp_path / "columns"
    folder.mkdir()
    pd.DataFrame(columns).to_parquet(folder / "a.parquet")
    return folder


@pytest.mark.parametrize("name", ["img", "picture", "jpg"])
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"bytes": b, "path": "x.png"}])
def test_the_only_column_of_images_is_taken_whatever_its_name(tmp_path, caplog, name, wrap):
    content = (fill(tmp_path / "a", "0.png", "1.png") / "1.png").read_bytes()
    folder = column_of(tmp_path, **{name: [None, wrap(content)], "key": [b"no", b"picture"], "image": ["a", "b"]})
    with caplog.at_level(logging.INFO):
        images = load_images(folder, "train")
    assert np.asarray(images[1]["image"])[0, 0] == 1 and images.column_names == ["key", "image"] or images["key"][:]
    assert f"its column of images, '{name}', is taken as 'image'" in caplog.text
    assert "its column 'image' holds no images and is left out" in caplog.text


def test_several_columns_of_images_are_named(tmp_path):
    content = (fill(tmp_path / "a", "0.png") / "0.png").read_bytes()
    with pytest.raises(
        ValueError, match="no column 'image' of images, but left and right: rename one of them to image"
    ):
        load_images(column_of(tmp_path, left=[content], right=[content]), "train")
    (tmp_path / "columns" / "a.parquet").unlink()
    pd.DataFrame({"image": [content], "mask": [content]}).to_parquet(tmp_path / "columns" / "a.parquet")
    assert shades(load_images(tmp_path / "columns", "train")) == [0]


def test_a_damaged_parquet_file_is_named(tmp_path, parquet):
    victim = parquet / "data" / "test-0.parquet"
    victim.write_bytes(victim.read_bytes()[:-9])
    with pytest.raises(ValueError, match="data/test-0.parquet is damaged"):
        load_images(parquet, "test")


def test_one_parquet_file_is_a_dataset(parquet):
    assert len(load_images(parquet / "data" / "probe-0.parquet", "train")) == 7
    assert commit_of_images(parquet / "data" / "probe-0.parquet") is None


NAMES = (
    "a b",
    "ü",
    "line\nbreak",
    "q?",
    "h#",
    "p%20q",
    "*",
    "[1]",
    'it\'s "so"',
    "日本",
    "a:b",
    "-x",
    "~",
    "$5",
    "{y}",
)


def test_names_may_have_any_characters(tmp_path):
    images = load_images(fill(tmp_path / "a {b} #1 %20", *(f"{name}.png" for name in NAMES)), "train")
    assert sorted(shades(images)) == list(range(len(NAMES)))


def test_a_name_with_a_variable_of_the_shell_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"takes a part of .*\$HOME.png for a variable of the shell: rename it"):
        load_images(fill(tmp_path / "a", "$HOME.png"), "train")


def test_a_name_that_is_no_unicode_is_named(tmp_path):
    fill(tmp_path / "a", "0.png")
    os.rename(os.fsencode(tmp_path / "a" / "0.png"), os.fsencode(tmp_path / "a") + b"/\xff.png")
    with pytest.raises(ValueError, match=r"the name of the file '.*\\udcff.png' is no UTF-8: rename it"):
        load_images(tmp_path / "a", "train")
