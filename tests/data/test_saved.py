import datasets
import numpy as np
import pytest
from PIL import Image

from cbsae_hub.data.images import load_images, read_images

pytestmark = pytest.mark.usefixtures("own_cache")
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})


@pytest.fixture
def rows(pixels):
    images = [Image.fromarray(values) for values in pixels]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 4}, FEATURES)


def pictures(images):
    return [np.asarray(picture).tolist() for picture in read_images(images, 0, len(images))]


def test_a_saved_dataset_is_the_split_train(tmp_path, rows, pixels):
    rows.save_to_disk(tmp_path / "s", num_shards=3)
    images = load_images(tmp_path / "s", "train")
    assert pictures(images) == [values.tolist() for values in pixels] and images["label"][:] == [0, 1] * 4
    assert images.features["label"].names == ["cat", "dog"]
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        load_images(tmp_path / "s", "test")


def test_a_saved_dictionary_has_its_splits(tmp_path, rows):
    parts = {"test": rows.select(range(2)), "train": rows.select(range(2, 7)), "odd": rows.select([7])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "s")
    assert [len(load_images(tmp_path / "s", split)) for split in ("train", "test", "odd", "odd+test")] == [5, 2, 1, 3]
    assert pictures(load_images(tmp_path / "s", "odd+test")) == pictures(rows.select([7, 0, 1]))


def test_a_saved_format_does_not_change_what_is_read(tmp_path, rows):
    rows.with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "s")
    assert isinstance(load_images(tmp_path / "s", "train")[0]["image"], Image.Image)


def test_pictures_of_files_are_saved_with_the_dataset(tmp_path, pixels):
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column("image", datasets.Image())
    rows.save_to_disk(tmp_path / "s")
    (tmp_path / "a.png").unlink()
    assert pictures(load_images(tmp_path / "s", "train")) == [pixels[0].tolist()]


@pytest.mark.parametrize("damage", [lambda b: b[:-8], lambda b: b[: len(b) // 2], lambda b: b"x" * 99, lambda b: b""])
def test_a_damaged_arrow_file_is_named(tmp_path, rows, damage):
    rows.save_to_disk(tmp_path / "s", num_shards=2)
    victim = tmp_path / "s" / "data-00001-of-00002.arrow"
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(ValueError, match="data-00001-of-00002.arrow is damaged"):
        load_images(tmp_path / "s", "train")


def test_missing_files_are_named(tmp_path, rows):
    rows.save_to_disk(tmp_path / "s", num_shards=2)
    (tmp_path / "s" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="s is damaged: .*data-00001-of-00002.arrow"):
        load_images(tmp_path / "s", "train")
    datasets.DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "b").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="the folder of the split 'b' is missing"):
        load_images(tmp_path / "d", "a")
    (tmp_path / "s" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="s is damaged"):
        load_images(tmp_path / "s", "train")
