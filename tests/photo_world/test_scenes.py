import io

import numpy as np
import pytest
from cutout_files import noise
from PIL import Image

from cbsae_hub.data.collection import collect_images
from cbsae_hub.data.images import load_images
from training.photo_world.cutouts import Cutout
from training.photo_world.scenes import COLOURS, LARGEST, SIDE, Scene, draw, rows, write_scenes

BACKDROPS = {"grass": Image.new("RGB", (400, 300), (40, 160, 40))}
BLUE = noise(80, 40, (10, 10, 250))


def scenes(count: int, cutout: Image.Image = BLUE, turns: bool = True) -> list[Scene]:
    return [draw(cutout, turns, BACKDROPS, np.random.default_rng(seed)) for seed in range(count)]


def test_the_box_is_where_the_cutout_is_seen():
    for scene in scenes(30):
        if scene.background == "plain blue":
            continue
        pixels = np.asarray(scene.image).astype(int)
        y, x = np.nonzero((pixels[..., 2] > 200) & (pixels[..., 0] < 100))
        seen = x.min(), y.min(), x.max() + 1, y.max() + 1
        if scene.background != "plain white":
            np.testing.assert_allclose(scene.box, seen, atol=3)


def test_half_of_the_scenes_are_before_photographs_and_all_colours_occur():
    backgrounds = [scene.background for scene in scenes(200)]
    assert 75 < backgrounds.count("grass") < 125
    assert {one.removeprefix("plain ") for one in backgrounds} == {"grass", *COLOURS}


def test_small_cutouts_are_not_blown_up():
    for scene in scenes(20, noise(20, 20, (10, 10, 250))):
        assert max(scene.box[2] - scene.box[0], scene.box[3] - scene.box[1]) <= 20 * 1.3 * LARGEST


def test_cutouts_that_must_not_be_mirrored_are_not():
    lopsided = Image.new("RGBA", (80, 40), (250, 10, 10, 255))
    lopsided.paste((10, 10, 250, 255), (0, 0, 40, 40))
    for turns in (False, True):
        mirrored = 0
        for scene in scenes(40, lopsided, turns):
            part = np.asarray(scene.image.crop(scene.box)).astype(int)
            left, right = np.array_split(part[part.shape[0] // 2], 2)
            mirrored += left[len(left) // 2, 0] > right[len(right) // 2, 0]
        assert (0 < mirrored < 40) if turns else mirrored == 0


@pytest.mark.parametrize(
    ("box", "place"),
    (((0, 0, 60, 60), "top left"), ((90, 90, 130, 130), "middle"), ((200, 90, 224, 130), "middle right"),
     ((90, 180, 130, 224), "bottom middle")),
)  # fmt: skip
def test_a_place_is_a_third_of_the_scene(box, place):
    assert Scene(BLUE, "grass", box).place == place


CUTOUTS = [Cutout("a/owl.png", "owl", ("animals", "birds"), BLUE, True), Cutout("b/cup.png", "cup", (), BLUE, False)]


def test_a_scene_depends_on_seed_cutout_and_number_alone():
    both, alone = (list(rows(CUTOUTS, numbers, BACKDROPS, 2, seed=3)) for numbers in ((0, 1), (1,)))
    assert both[2:] == alone
    assert list(rows(CUTOUTS, (1,), BACKDROPS, 2, seed=4)) != alone


def test_the_dataset_says_what_is_true_and_its_labels_are_found(tmp_path):
    views = {"train": 3, "probe": 2}
    write_scenes(CUTOUTS, {"train": [0], "probe": [0, 1]}, BACKDROPS, views, 0, tmp_path / "scenes")
    probe = load_images(tmp_path / "scenes", "probe")
    assert (len(load_images(tmp_path / "scenes", "train")), len(probe)) == (3, 4)
    row = probe[0]
    assert (row["concept"], row["kinds"], row["cutout"]) == ("owl", ["animals", "birds"], 0)
    assert row["caption"] == f"owl, {row['background']}"
    assert row["image"].size == (SIDE, SIDE)
    collection = collect_images(tmp_path / "scenes", tmp_path / "collected", split="probe")
    assert collection.captions == "caption"
    assert set(collection.labels) >= {"concept", "kinds"}
    assert "cutout" not in collection.labels


def test_splits_that_are_there_stay(tmp_path):
    options = {"train": [0]}, BACKDROPS, {"train": 1}
    write_scenes(CUTOUTS, *options, 0, tmp_path)
    (file,) = tmp_path.rglob("*.parquet")
    before = file.read_bytes()
    write_scenes(CUTOUTS, *options, 1, tmp_path)
    assert file.read_bytes() == before


def test_pictures_are_whole():
    (row,) = rows(CUTOUTS, (0,), BACKDROPS, 1, 0)
    Image.open(io.BytesIO(row["image"]["bytes"])).verify()
