import numpy as np
import pytest
from cutout_files import noise
from PIL import Image

from training.photo_world.cutouts import SPLITS, STAMPS_FOLDER, Cutout, flatness, name_of, read_cutouts, split_cutouts


def stamp(package, place: str, image: Image.Image, caption: str = "", settings: str = ""):
    file = package / STAMPS_FOLDER / f"{place}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    if caption:
        file.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Anders.\n", encoding="utf-8")
    if settings:
        file.with_suffix(".dat").write_text(settings)
    return file


@pytest.fixture
def package(tmp_path):
    for i, name in enumerate(("hen", "owl", "crow", "duck", "gull")):
        stamp(tmp_path, f"animals/birds/{name}", noise(60, 50, (90, 60, 30), i), f"A {name}.")
    for i in range(2):
        stamp(tmp_path, f"animals/cat{i}", noise(60, 50, (30, 60, 90), 10 + i), "A cat.", "nomirror\n")
    return tmp_path


def test_photographs_are_read_with_their_names_and_kinds(package):
    cutouts = read_cutouts(package)
    assert [one.file for one in cutouts] == sorted(one.file for one in cutouts)
    by_name = {one.concept: one for one in cutouts}
    assert by_name["owl"].kinds == ("animals", "birds")
    assert by_name["cat"].kinds == ("animals",)
    assert (by_name["owl"].turns, by_name["cat"].turns) == (True, False)


def test_drawings_copies_mirrored_and_small_ones_are_left_out(package):
    before = len(read_cutouts(package))
    stamp(package, "animals/birds/drawn", Image.new("RGBA", (60, 60), "red"), "A drawing.")
    stamp(package, "animals/birds/copy", noise(60, 50, (90, 60, 30), 0), "A copy.")
    stamp(package, "animals/birds/hen_mirror", noise(60, 50, (90, 60, 30), 40))
    stamp(package, "animals/birds/cartoon/owl", noise(60, 50, (90, 60, 30), 41))
    stamp(package, "symbols/a", noise(60, 50, (90, 60, 30), 42))
    stamp(package, "animals/birds/tiny", noise(20, 20, (90, 60, 30), 43))
    assert len(read_cutouts(package)) == before


def test_what_is_transparent_around_it_is_cut_off(tmp_path):
    wide = Image.new("RGBA", (200, 200))
    wide.paste(noise(60, 50, (90, 60, 30)), (70, 20))
    stamp(tmp_path, "food/egg", wide)
    (egg,) = read_cutouts(tmp_path)
    assert egg.image.size == (60, 50)


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(OSError, match="no cut-outs"):
        read_cutouts(tmp_path)


def test_flatness_counts_equal_neighbours_that_are_opaque():
    pixels = np.zeros((1, 5, 4), np.uint8)
    pixels[0, :, :3] = [[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    pixels[0, :4, 3] = 255
    assert flatness(Image.fromarray(pixels)) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("stem", "caption", "name"),
    (
        ("Hen_2", "A brown hen.", "brown hen"),
        ("apple_fuji", "A “Fuji” apple.", "fuji apple"),
        ("peacock", "A peacock (a male peafowl).", "peacock"),
        ("lobster", "A spiny lobster, from the Hawaiian islands.", "spiny lobster"),
        ("toilet", "Remember to flush the toilet and wash your hands with soap!", "toilet"),
        ("dinosaur-1", "A dinosaur lived very long ago.", "dinosaur"),
        ("fire", "Fire! Fire! Fire!", "fire"),
        ("fish", "A very poisonous lionfish!", "fish"),
        ("moon_full", "", "moon full"),
    ),
)
def test_a_caption_names_a_cutout_if_it_is_a_name(tmp_path, stem, caption, name):
    assert name_of(stamp(tmp_path, stem, noise(4, 4, (0, 0, 0)), caption)) == name


def made(concept: str, *kinds: str) -> Cutout:
    return Cutout(concept, concept, kinds, noise(4, 4, (0, 0, 0)), True)


def test_every_kind_is_in_every_split_and_no_cutout_is_in_two():
    cutouts = [made(f"bird {i}", "animals", "birds") for i in range(20)] + [
        made(f"tool {i}", "tools") for i in range(8)
    ]
    splits = split_cutouts(cutouts, 0)
    assert sorted(i for members in splits.values() for i in members) == list(range(28))
    for split, share in SPLITS.items():
        assert sum(i < 20 for i in splits[split]) == 20 * share
        assert sum(i >= 20 for i in splits[split]) == 8 * share
    assert split_cutouts(cutouts, 0) == splits
    assert split_cutouts(cutouts, 1) != splits


def test_cutouts_of_one_concept_stay_together():
    cutouts = [made(f"bird {i // 3}", "birds") for i in range(24)]
    for seed in range(5):
        where = {i: split for split, members in split_cutouts(cutouts, seed).items() for i in members}
        assert all(where[3 * i] == where[3 * i + 1] == where[3 * i + 2] for i in range(8))
