import datasets
import numpy as np
import pytest
from PIL import Image

from cbsae_hub.data.images import commit_of_images, image_batches, load_images, read_pictures

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


def test_a_folder_may_be_called_as_a_file_format(folder_of_images, tmp_path):
    folder_of_images.rename(tmp_path / "parquet")
    assert len(load_images("parquet", "train")) == 3


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: None, FileNotFoundError, "existing folder or a Hub id"),
        (lambda f: f.mkdir(), FileNotFoundError, "doesn't contain any data files"),
        (lambda f: write(f / "x.py", b"raise SystemExit"), ValueError, "scripts are no longer supported"),
        (lambda f: write(f / "x.csv", b"image\n1\n"), ValueError, "neither Parquet nor images, but Csv"),
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
    assert len(read_pictures(images, 2, 3)) == 1
    with pytest.raises(ValueError, match=r"image 1 \(.*cat/2.png\) cannot be read"):
        read_pictures(images, 0, 3)


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
