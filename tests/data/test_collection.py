import csv
import io
import json
import os
import shutil
import struct
import zlib

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from read_pictures import lists, pictures
from tar_files import pack

import cbsae_hub.data.collection as collection
from cbsae_hub.data.collected import Unreadable
from cbsae_hub.data.collection import collect_images
from cbsae_hub.data.images import load_images

pytestmark = pytest.mark.usefixtures("own_cache")
CAPTIONS = [f"number {i} of the pictures" for i in range(8)]
CLASSES = ["cat", "dog"] * 4


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that were decoded, each time one is."""
    seen = []

    def count(self, value, **options):
        seen.append(value)
        return decode(self, value, **options)

    decode = datasets.Image.decode_example
    monkeypatch.setattr(datasets.Image, "decode_example", count)
    return seen


def dataset(png, **columns):
    features = {"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}}
    rows = {"image": [{"bytes": content, "path": None} for content in png], **columns}
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


# ------------------------------------------------------------------------------------------------------------- sources


def class_folders(folder, png):
    for i, (name, content) in enumerate(zip(CLASSES, png, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{i}.png").write_bytes(content)


def metadata(folder, png):
    folder.mkdir()
    for i, content in enumerate(png):
        (folder / f"{i}.png").write_bytes(content)
    rows = [{"file_name": f"{i}.png", "text": CAPTIONS[i], "animal": CLASSES[i]} for i in range(8)]
    return rows


def metadata_csv(folder, png):
    pd.DataFrame(metadata(folder, png)).to_csv(folder / "metadata.csv", index=False)


def metadata_jsonl(folder, png):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, metadata(folder, png))))


def parquet(folder, png):
    folder.mkdir()
    pd.DataFrame({"img": png, "text": CAPTIONS, "animal": CLASSES}).to_parquet(folder / "a.parquet")


def saved(folder, png):
    dataset(png, text=CAPTIONS, animal=CLASSES).save_to_disk(folder)


def tars(folder, png):
    for shard in (0, 4):
        members = []
        for i in range(shard, shard + 4):
            members += [(f"{i}.png", png[i]), (f"{i}.txt", CAPTIONS[i].encode()), (f"{i}.cls", CLASSES[i].encode())]
        pack(folder / f"shard-{shard}.tar", members)


SOURCES = {make.__name__: make for make in (class_folders, metadata_csv, metadata_jsonl, parquet, saved, tars)}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_the_same_pictures_labels_and_captions(tmp_path, png, pixels, kind, decoded):
    SOURCES[kind](tmp_path / "s", png)
    found = collect_images(tmp_path / "s", tmp_path / "c")
    assert len(decoded) == 8
    order = range(8) if kind != "class_folders" else [0, 2, 4, 6, 1, 3, 5, 7]
    assert pictures(found.images) == lists(pixels[i] for i in order)
    assert found.unreadable == () and not (tmp_path / "c" / "unreadable.csv").exists()
    expected = {
        "class_folders": (("label",), None),
        "tars": (("label",), "caption"),
    }.get(kind, (("animal",), "text"))
    assert (found.labels, found.captions) == expected
    if found.captions:
        assert found.images[found.captions][:] == CAPTIONS
    expected = {"id": str(tmp_path / "s"), "split": "train", "revision": None, "rows_left_out": []}
    assert found.source == expected
    assert pictures(load_images(tmp_path / "c", "train")) == pictures(found.images)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_can_be_streamed(tmp_path, png, pixels, kind):
    SOURCES[kind](tmp_path / "s", png)
    found = collect_images(tmp_path / "s", tmp_path / "c", streaming=True, max_images=20)
    order = [lists(pixels).index(values) for values in pictures(found.images)]
    assert sorted(order) == list(range(8)) and order != list(range(8))
    assert found.labels == (("label",) if kind in ("class_folders", "tars") else ("animal",))
    if found.captions:
        assert found.images[found.captions][:] == [CAPTIONS[i] for i in order]
    words = found.images.features["label"].names if kind == "class_folders" else None
    labels = found.images[found.labels[0]][:]
    assert [words[label] if words else label for label in labels] == [CLASSES[i] for i in order]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_archive_of_pictures_is_read_and_streamed(flat, tmp_path, pixels, streaming, caplog):
    (flat / "9.png").write_bytes(b"")
    shutil.make_archive(str(tmp_path / "s" / "a"), "zip", flat)
    with caplog.at_level("INFO"):
        found = collect_images(tmp_path / "s", tmp_path / "c", streaming=streaming, max_images=9)
    assert sorted(pictures(found.images)) == sorted(lists(pixels)) and len(found.unreadable) == 1
    assert "a.zip" in found.unreadable[0].file and "copies" not in caplog.text


# --------------------------------------------------------------------------------------------------------- unreadable


def bomb(width, height):
    """A PNG that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def floats():
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(file, "TIFF")
    return file.getvalue()


def jpeg(cut=None):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()[:cut]


DAMAGED = {
    "empty.png": (b"", "the file is empty"),
    "text.jpg": (b"no picture\n", "the file is no picture of a known kind, or its beginning is damaged"),
    "page.png": (b"<html>404</html>", "the file is no picture of a known kind, or its beginning is damaged"),
    "cut.jpg": (jpeg(900), "image file is truncated"),
    "cut.png": (bomb(4, 4), "image file is truncated"),
    "bomb.png": (bomb(60_000, 60_000), "could be decompression bomb"),
    "floats.tif": (floats(), "does not say which of them is white"),
    "zeros.webp": (bytes(500), "the file is no picture of a known kind"),
}


@pytest.fixture
def damaged(flat):
    for name, (content, _) in DAMAGED.items():
        (flat / name).write_bytes(content)
    return flat


def test_what_cannot_be_read_is_listed_with_its_reason_and_left_out(damaged, tmp_path, pixels, decoded, caplog):
    found = collect_images(damaged, tmp_path / "c")
    assert pictures(found.images) == lists(pixels)
    names = sorted(path.name for path in damaged.iterdir())
    assert [(picture.row, picture.file) for picture in found.unreadable] == [
        (row, name) for row, name in enumerate(names) if name in DAMAGED
    ]
    for picture in found.unreadable:
        assert DAMAGED[picture.file][1] in picture.reason and "0x" not in picture.reason
    with (tmp_path / "c" / "unreadable.csv").open(newline="") as file:
        table = [Unreadable(int(row["row"]), row["file"], row["reason"]) for row in csv.DictReader(file)]
    assert tuple(table) == found.unreadable
    assert found.source["rows_left_out"] == [picture.row for picture in found.unreadable]
    assert "8 of 16 pictures" in caplog.text and "bomb.png: " in caplog.text


def test_a_link_to_nothing_is_left_out(flat, tmp_path, caplog):
    before = len(collect_images(flat, tmp_path / "c").images)
    (flat / "link.png").symlink_to("nothing.png")
    assert len(collect_images(flat, tmp_path / "d").images) == before and "link.png" in caplog.text
    assert len(load_images(tmp_path / "d", "train")) == before
    with pytest.raises(FileNotFoundError, match="link.png"):
        collect_images(flat, tmp_path / "e", strict=True)


def test_a_picture_that_is_missing_is_left_out(tmp_path, png):
    (tmp_path / "s").mkdir()
    files = [png[0], None, b"", png[1], png[2][:60]]
    pd.DataFrame({"image": [None if b is None else {"bytes": b, "path": "x.png"} for b in files]}).to_parquet(
        tmp_path / "s" / "a.parquet"
    )
    found = collect_images(tmp_path / "s", tmp_path / "c")
    assert [picture.row for picture in found.unreadable] == [1, 2, 4]
    assert found.unreadable[0] == Unreadable(1, "", "it is missing")
    assert found.unreadable[1] == Unreadable(2, "x.png", "the file is empty")


def test_a_damaged_picture_in_a_tar_is_named_by_tar_and_file(tmp_path, png):
    pack(
        tmp_path / "s" / "a.tar", [("x/1.png", png[0]), ("x/2.png", png[1][:50]), ("3.txt", b"none"), ("4.png", png[2])]
    )
    found = collect_images(tmp_path / "s", tmp_path / "c")
    assert [(picture.row, picture.file) for picture in found.unreadable] == [(1, "a.tar/x/2.png"), (2, "")]


def test_strict_names_the_first_and_says_how_many(damaged, tmp_path, decoded):
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"8 of 16 pictures of .* \(bomb.png: .*; cut.jpg: .*; cut.png.* and 5 more\)"
        ):
            collect_images(damaged, tmp_path / "c", strict=True)
    read = len(decoded)
    assert len(collect_images(damaged, tmp_path / "c").images) == 8 and len(decoded) == read
    assert (tmp_path / "c" / "unreadable.csv").exists()


@pytest.mark.parametrize("readable", [0, 1])
def test_fewer_than_two_pictures_are_an_error(damaged, tmp_path, readable):
    for i in range(readable, 8):
        (damaged / f"{i}.png").unlink()
    with pytest.raises(ValueError, match=rf"8 of {8 + readable} pictures .* cannot be read \(bomb.png"):
        collect_images(damaged, tmp_path / "c")
    for name in DAMAGED:
        (damaged / name).unlink()
    if readable:
        with pytest.raises(ValueError, match="has 1 pictures in train: at least 2"):
            collect_images(damaged, tmp_path / "c")


def test_the_list_goes_when_the_pictures_are_mended(flat, tmp_path, png):
    (flat / "9.png").write_bytes(b"")
    assert len(collect_images(flat, tmp_path / "c").unreadable) == 1
    (flat / "9.png").write_bytes(png[0])
    assert collect_images(flat, tmp_path / "c").unreadable == ()
    assert not (tmp_path / "c" / "unreadable.csv").exists()


def test_copies_stay_and_are_counted(flat, tmp_path, png, caplog):
    (flat / "copy.png").write_bytes(png[3])
    with caplog.at_level("INFO"):
        assert len(collect_images(flat, tmp_path / "c").images) == 9
    assert "1 pictures are copies of others" in caplog.text


def test_names_of_files_may_have_any_characters(flat, tmp_path):
    name = 'a, "b"\n; =c ü日本.png'
    (flat / name).write_bytes(b"")
    assert collect_images(flat, tmp_path / "c").unreadable[0].file == name
    with (tmp_path / "c" / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [name]


# ------------------------------------------------------------------------------------------------------------- memory


def test_the_same_call_twice_reads_nothing(damaged, tmp_path, decoded):
    first = collect_images(damaged, tmp_path / "c")
    read = len(decoded)
    second = collect_images(os.path.relpath(damaged), tmp_path / "c")
    assert len(decoded) == read and second.unreadable == first.unreadable
    assert second.source == {**first.source, "id": "flat"}
    assert pictures(second.images) == pictures(first.images)


@pytest.mark.parametrize("change", ["content", "new", "gone", "max_images", "seed"])
def test_other_files_or_settings_are_noticed(flat, tmp_path, png, decoded, change, caplog):
    options = {"max_images": 6, "seed": 1}
    collect_images(flat, tmp_path / "c", **options)
    read = len(decoded)
    if change == "content":
        (flat / "3.png").write_bytes(png[4])
    elif change == "new":
        (flat / "8.png").write_bytes(png[4])
    elif change == "gone":
        (flat / "3.png").unlink()
    else:
        options[change] = 5
    if change not in options:
        with pytest.raises(ValueError, match=f"the files of {flat} have changed since"):
            load_images(tmp_path / "c", "train")
    with caplog.at_level("INFO"):
        found = collect_images(flat, tmp_path / "c", **options)
    assert len(decoded) == read + len(found.images) and "they are read again" in caplog.text
    assert ("state" if change not in options else change) in caplog.text
    assert pictures(load_images(tmp_path / "c", "train")) == pictures(found.images)


def test_a_killed_run_goes_on_where_it_was(flat, tmp_path, png, decoded, monkeypatch):
    monkeypatch.setattr(collection, "PICTURES_A_TASK", 2)
    monkeypatch.setattr(collection, "PICTURES_A_RECORD", 2)
    (flat / "1.png").write_bytes(b"")
    check = collection._check

    def kill(feature, cell):
        if cell["path"].endswith("5.png"):
            raise KeyboardInterrupt
        return check(feature, cell)

    monkeypatch.setattr(collection, "_check", kill)
    with pytest.raises(KeyboardInterrupt):
        collect_images(flat, tmp_path / "c")
    with pytest.raises(ValueError, match="have not all been read yet"):
        load_images(tmp_path / "c", "train")
    monkeypatch.setattr(collection, "_check", check)
    decoded.clear()
    found = collect_images(flat, tmp_path / "c")
    assert 4 <= len(decoded) <= 6  # of pairs 0 and 1 at least the first was recorded; 4 and 5 were not
    assert [picture.file for picture in found.unreadable] == ["1.png"] and len(found.images) == 7


def test_a_collection_opens_as_a_dataset_with_its_own_split(damaged, tmp_path, pixels):
    collect_images(damaged, tmp_path / "c", max_images=12, seed=3)
    os.chdir("/")
    images = load_images(tmp_path / "c", "train")
    assert all(values in lists(pixels) for values in pictures(images))
    with pytest.raises(ValueError, match="c has no split 'test'; it has train"):
        load_images(tmp_path / "c", "test")
    with pytest.raises(ValueError, match="is a collection of .*flat: give that one"):
        collect_images(tmp_path / "c", tmp_path / "d")


def test_a_file_of_the_same_name_is_no_collection(flat, tmp_path):
    (flat / "collection.json").write_text("[]")
    assert len(load_images(flat, "train")) == 8
    collect_images(flat, tmp_path / "c")
    (tmp_path / "c" / "collection.json").write_text("{")
    with pytest.raises(ValueError, match="collection.json is not valid JSON"):
        load_images(tmp_path / "c", "train")


def test_the_folder_does_not_lie_among_the_pictures(flat, tmp_path):
    for folder in (flat, flat / "run"):
        with pytest.raises(ValueError, match="its files would count as pictures: choose another"):
            collect_images(flat, folder)


# -------------------------------------------------------------------------------------------------------------- choice


def test_a_draw_depends_on_the_seed_and_keeps_the_order(flat, tmp_path, pixels):
    draws = []
    for seed in range(6):
        found = collect_images(flat, tmp_path / f"c{seed}", max_images=4, seed=seed)
        rows = [lists(pixels).index(values) for values in pictures(found.images)]
        assert rows == sorted(set(rows)) and len(rows) == 4
        assert (found.source["max_images"], found.source["seed"]) == (4, seed)
        draws.append(tuple(rows))
    assert len(set(draws)) > 3
    again = collect_images(flat, tmp_path / "again", max_images=4, seed=2)
    assert tuple(lists(pixels).index(values) for values in pictures(again.images)) == draws[2]
    assert len(collect_images(flat, tmp_path / "all", max_images=99).images) == 8


@pytest.mark.parametrize(
    ("splits", "expected"), [(["test"], "test"), (["train", "test"], "train"), (["test", "val"], "validation+test")]
)
def test_without_a_split_the_only_one_or_train_or_all_are_taken(tmp_path, png, caplog, splits, expected):
    for place, split in enumerate(splits):
        pack(tmp_path / "s" / f"{split}.tar", [(f"{i}.png", png[i]) for i in range(4 * place, 4 * place + 3)])
    with caplog.at_level("INFO"):
        found = collect_images(tmp_path / "s", tmp_path / "c")
    assert found.source["split"] == expected and len(found.images) == (6 if "+" in expected else 3)
    assert (f"the pictures of {expected} are taken" in caplog.text) == (len(splits) > 1)
    assert len(load_images(tmp_path / "c", expected)) == len(found.images)
    with pytest.raises(ValueError, match="no split 'x'; it has"):
        collect_images(tmp_path / "s", tmp_path / "d", split="x")


@pytest.mark.parametrize("options", [{"max_images": 1}, {"streaming": True}])
def test_arguments_that_make_no_sense_are_refused(flat, tmp_path, options):
    with pytest.raises(ValueError, match="max_images"):
        collect_images(flat, tmp_path / "c", **options)
