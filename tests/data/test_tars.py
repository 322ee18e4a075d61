import io
import json
import os
import pickle
import subprocess

import numpy as np
import pytest
from PIL import Image
from tar_files import pack

from cbsae_hub.data.image_files import arrange
from cbsae_hub.data.images import load_images, read_images

pytestmark = pytest.mark.usefixtures("own_cache")


def same(images, expected):
    return [np.asarray(picture).tolist() for picture in read_images(images, 0, len(images))] == [
        values.tolist() for values in expected
    ]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["shard-000000.tar", "shard-000001.tar"], {"train": 2}),
        (["00000.tar", "00001.tar"], {"train": 2}),
        (["train-000000.tar", "train-000001.tar", "val-000000.tar"], {"train": 2, "validation": 1}),
        (["train/0.tar", "test/0.tar"], {"train": 1, "test": 1}),
        (["imagenet-train-00.tar", "imagenet-val-00.tar"], {"train": 1, "validation": 1}),
        (["test.tar"], {"test": 1}),
    ],
)
def test_tars_that_are_all_named_after_splits_are_splits(names, splits):
    layout = arrange(names, {})
    assert layout.kind == "webdataset" and {split: len(part) for split, part in layout.splits.items()} == splits


def test_what_lies_beside_tars_is_left_out():
    tables = ["00000.parquet", "00000.tar", "00000_stats.json", "cover.png"]  # as img2dataset writes them
    layout = arrange(tables, {})
    assert (layout.splits, layout.left_out) == ({"train": ["00000.tar"]}, ["00000.parquet", "cover.png"])
    assert arrange(["a.png", "b.png", "all.tar"], {}).left_out == ["all.tar"]


def test_a_folder_of_shards_is_read_in_their_order(tmp_path, png, pixels):
    for shard in range(2):
        pack(tmp_path / "t" / f"shard-{shard}.tar", [(f"{i}.png", png[i]) for i in range(4 * shard, 4 * shard + 4)])
    images = load_images(tmp_path / "t", "train")
    assert same(images, pixels) and images.column_names == ["image", "__key__"]


def test_fields_become_columns(tmp_path, png):
    rows = [("cat", "a cat", {"size": 1, "tags": ["x", "y"]}), ("dog", "a dog", {"size": 2.5, "late": "yes"})]
    members = [
        (f"{i}.{field}", content)
        for i, (name, text, record) in enumerate(rows)
        for field, content in [
            ("png", png[i]),
            ("cls", name.encode()),
            ("txt", text.encode()),
            ("json", json.dumps(record).encode()),
        ]
    ]
    images = load_images(pack(tmp_path / "a.tar", members), "train")
    assert images["label"][:] == ["cat", "dog"] and images["caption"][:] == ["a cat", "a dog"]
    assert images["size"][:] == [1, 2.5] and images["tags"][:] == [["x", "y"], None]
    assert images["late"][:] == [None, "yes"]


def test_a_column_that_appears_after_many_samples_is_not_lost(tmp_path, png):
    members = [(f"{i}.png", png[0]) for i in range(8)]
    members[7:] = [("7.jpg", png[1]), ("7.txt", "an “ü”".encode()), ("7.json", b'{"late": {"deep": 1}}')]
    images = load_images(pack(tmp_path / "a.tar", members), "train")
    assert images["caption"][:] == [None] * 7 + ["an “ü”"] and images["late"][7] == {"deep": 1}


def test_classes_that_are_numbers_are_numbers(tmp_path, png):
    members = [item for i in range(3) for item in [(f"{i}.cls", b"%d\n" % (i % 2)), (f"{i}.png", png[i])]]
    assert load_images(pack(tmp_path / "a.tar", members), "train")["label"][:] == [0, 1, 0]


def test_keys_of_json_do_not_replace_columns(tmp_path, png):
    record = {"caption": "of json", "image": "1.png", "__key__": "x", "mixed": 1}
    members = [("0.png", png[0]), ("0.txt", b"of txt"), ("0.json", json.dumps(record).encode())]
    members += [("1.png", png[1]), ("1.json", b'{"mixed": {}}'), ("2.png", png[2]), ("2.json", b'{"mixed": "text"}')]
    images = load_images(pack(tmp_path / "a.tar", members), "train")
    assert images[0]["caption"] == "of txt" and images[0]["json.caption"] == "of json"
    assert images[0]["json.image"] == "1.png" and images[0]["json.__key__"] == "x"
    assert images["mixed"][:] == ["1", "{}", "text"]
    alone = pack(tmp_path / "b.tar", [("0.png", png[0]), ("0.json", json.dumps(record).encode())])
    assert load_images(alone, "train")["caption"][:] == ["of json"]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_pictures_of_every_kind_are_the_column_image(tmp_path, pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, kind)
    images = load_images(pack(tmp_path / "a.tar", [(f"x/1.{kind.lower()}", file.getvalue())]), "train")
    assert same(images, [np.asarray(Image.open(file).convert("RGB"))])


def test_a_name_with_dots_is_one_sample(tmp_path, png, pixels):
    members = [("./a.b/photo 1.5.png", png[0]), ("./a.b/photo 1.5.txt", b"one"), ("x.png", png[1]), ("x.txt", b"two")]
    images = load_images(pack(tmp_path / "a.tar", members), "train")
    assert same(images, pixels[:2]) and images["caption"][:] == ["one", "two"]


def test_two_pictures_in_a_sample_are_named(tmp_path, png):
    tar = pack(tmp_path / "a.tar", [("1.left.png", png[0]), ("1.right.png", png[1])])
    with pytest.raises(ValueError, match=r"1\.left\.png and 1\.right\.png"):
        load_images(tar, "train")


def test_a_sample_that_is_torn_apart_is_named(tmp_path, png):
    tar = pack(tmp_path / "a.tar", [("1.png", png[0]), ("2.png", png[1]), ("1.txt", b"one")])
    with pytest.raises(ValueError, match="a.tar: the files of the sample '1' .*--sort=name"):
        load_images(tar, "train")


def test_a_file_of_the_same_name_on_this_machine_is_not_read(tmp_path, png, pixels):
    """`datasets` reads it instead of the one in the tar."""
    (tmp_path / "1.png").write_bytes(png[0])
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "1.png").write_bytes(png[0])
    os.chdir(tmp_path)
    assert same(load_images(pack(tmp_path / "t" / "a.tar", [("1.png", png[1])]), "train"), pixels[1:2])
    secret = str(tmp_path / "1.png")
    assert same(load_images(pack(tmp_path / "t" / "b.tar", [(secret, png[2])]), "train"), pixels[2:3])


class Boom:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, png, caplog):
    content = pickle.dumps(Boom())
    members = [("1.png", png[0]), ("1.pkl", content), ("1.pth", content), ("1.npy", content), ("1.pickle", content)]
    with caplog.at_level("INFO"):
        images = load_images(pack(tmp_path / "a.tar", members), "train")
    assert images.column_names == ["image", "__key__"] and not (tmp_path / "unpickled").exists()
    assert "a.tar: its files .npy, .pickle, .pkl, .pth are not read" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:1800],  # within a picture
        lambda b: b[:1024],  # after a file: `tarfile` takes it for the end
        lambda b: b[:1100],  # within a header
        lambda b: b[:1024] + b"x" * 512 + b[1536:],  # a header that is no more: `tarfile` takes it for the end
        lambda b: b + b,  # two tars joined: `tarfile` reads the first
        lambda b: b"",
        lambda b: b"no tar" * 1000,
    ],
)
def test_a_damaged_tar_is_named(tmp_path, png, damage):
    pack(tmp_path / "t" / "a.tar", [("1.png", png[0])])
    tar = pack(tmp_path / "t" / "b.tar", [(f"{i}.png", png[i]) for i in range(4)])
    tar.write_bytes(damage(tar.read_bytes()))
    with pytest.raises(ValueError, match=r"t cannot be read: .*b\.tar is damaged"):
        load_images(tmp_path / "t", "train")


@pytest.mark.parametrize(("content", "message"), [(b"{", "1.json is damaged"), (b"[1]", r"1.json holds '\[1\]'")])
def test_damaged_json_is_named(tmp_path, png, content, message):
    with pytest.raises(ValueError, match=message):
        load_images(pack(tmp_path / "a.tar", [("1.png", png[0]), ("1.json", content)]), "train")


def test_a_text_that_is_no_utf8_is_named(tmp_path, png):
    with pytest.raises(ValueError, match="a.tar: 1.txt is no UTF-8"):
        load_images(pack(tmp_path / "a.tar", [("1.png", png[0]), ("1.txt", b"\xff\xff")]), "train")


def test_what_the_program_tar_packs_is_read(tmp_path, png, pixels):
    """Also names that need the extended headers of GNU."""
    folder = tmp_path / "files" / ("long " * 40) / "ü 日本"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png[i])
        (folder / f"{i}.txt").write_text(f"number {i}")
    subprocess.run(["tar", "--sort=name", "-cf", tmp_path / "a.tar", "-C", tmp_path / "files", "."], check=True)
    images = load_images(tmp_path / "a.tar", "train")
    assert same(images, pixels[:3]) and images["caption"][:] == [f"number {i}" for i in range(3)]
