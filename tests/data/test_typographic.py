"""Words on pictures, and the published benchmarks as they lie in folders."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cbsae_hub.data import text_attack
from cbsae_hub.data.text_attack import TextAttack, lines_of
from cbsae_hub.data.typographic import LabelledImages, read_benchmark

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
RGB = {  # of COLOURS, as browsers know them
    "white": (255, 255, 255), "blue": (0, 0, 255), "green": (0, 128, 0), "red": (255, 0, 0), "magenta": (255, 0, 255),
    "cyan": (0, 255, 255), "yellow": (255, 255, 0), "black": (0, 0, 0),
}  # fmt: skip


def grey(size=(300, 200)):
    return Image.new("RGB", size, (90, 91, 92))


def test_a_word_in_one_colour_with_a_stroke_of_another_is_somewhere_inside_the_picture():
    attack, places, colours = TextAttack([FONT]), set(), set()
    for seed in range(12):
        image = attack(grey(), "golden retriever" if seed % 2 else "owl", np.random.default_rng(seed))
        assert image.size == (224, 224)
        pixels = np.asarray(image)
        y, x = np.nonzero((pixels != (90, 91, 92)).any(-1))
        strong = {name for name, rgb in RGB.items() if (pixels == rgb).all(-1).sum() > 5}
        assert len(strong) == 2, "letters and stroke"
        assert np.ptp(y) > (20 if seed % 2 else 8) and np.ptp(x) > 20
        places.add((x.min(), y.min()))
        colours |= strong
        again = attack(grey(), "golden retriever" if seed % 2 else "owl", np.random.default_rng(seed))
        assert np.array_equal(pixels, np.asarray(again))
    assert len(places) > 8 and len(colours) > 4


def test_what_is_too_long_is_made_smaller_and_not_cut():
    image = TextAttack([FONT])(grey(), "antidisestablishmentarianism", np.random.default_rng(0))
    x = np.nonzero((np.asarray(image) != (90, 91, 92)).any(-1))[1]
    assert 150 < np.ptp(x) < 224 and x.min() >= 0 and x.max() <= 223


@pytest.mark.parametrize(
    ("word", "lines"),
    [
        ("owl", "owl"),
        ("great owl", "great\nowl"),
        ("the great owl", "the\ngreat owl"),
        ("the very great owl", "the very\ngreat owl"),
    ],
)
def test_lines_break_after_the_first_word_or_of_many_after_the_second(word, lines):
    assert lines_of(word) == lines


def test_a_missing_font_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(text_attack, "FACES", (("none-such.ttf",), ("nor-this.ttf",)))
    with pytest.raises(ValueError, match=r"none of the fonts none-such.ttf, nor-this.ttf: install one .* fonts: \["):
        TextAttack()
    (tmp_path / "broken.ttf").write_text("no font")
    with pytest.raises(ValueError, match="broken.ttf cannot be read: name the file of a TrueType"):
        TextAttack([tmp_path / "broken.ttf"])


def test_each_picture_gets_the_name_of_another_class():
    images = LabelledImages(lambda i: Image.new("RGB", (8, 8), (i, 0, 0)), ("cat", "dog", "owl") * 20)
    calls = []

    def attack(image, word, rng):
        calls.append((image.getpixel((0, 0))[0], word, rng.random()))
        return image

    attacked = images.attacked(attack, ["cat", "dog", "owl"], seed=1)
    assert len(attacked) == 60 and attacked.labels == images.labels
    assert all(word != label for word, label in zip(attacked.words, attacked.labels))
    assert {(a, b) for a, b in zip(attacked.labels, attacked.words)} == {
        (a, b) for a in ("cat", "dog", "owl") for b in ("cat", "dog", "owl") if a != b
    }
    attacked.open(7), attacked.select([3, 7]).open(1), attacked.open(8)
    assert calls[0] == calls[1] and calls[0][:2] == (7, attacked.words[7]) and calls[2][2] != calls[0][2]
    assert attacked.select([3, 7]).words == (attacked.words[3], attacked.words[7])
    assert images.attacked(attack, ["cat", "dog", "owl"], seed=2).words != attacked.words
    with pytest.raises(ValueError, match="all pictures show cat: an attack writes the name of another class"):
        LabelledImages(images.open, ("cat",)).attacked(attack, ["cat"], 0)


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), colour).save(path)


def test_rta_100_and_paint_say_in_their_file_names_what_they_are(tmp_path):
    picture(tmp_path / "a" / "label=coffee_mug_text=dog.png", (0, 0, 255))
    picture(tmp_path / "b" / "label=dog_text=red_wolf.JPG", (255, 0, 0))
    read = read_benchmark(tmp_path)
    assert read.attacked.labels == ("coffee mug", "dog") and read.attacked.words == ("dog", "red wolf")
    assert read.classes == ("coffee mug", "dog", "red wolf")
    assert read.clean is None and read.template == "a photo of a {}."
    assert read.attacked.open(0).getpixel((0, 0)) == (0, 0, 255)
    picture(tmp_path / "holiday.png", (0, 0, 0))
    with pytest.raises(ValueError, match="must be called label=cup_text=dog.png, .* holiday.png does not"):
        read_benchmark(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere: download the benchmark"):
        read_benchmark(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are none"):
        read_benchmark(tmp_path / "empty")


def test_the_dataset_of_materzynska_lists_its_pictures(tmp_path):
    folder = tmp_path / "typographic_attack_dataset"
    entries = {"1.JPG": ("cup", "iPad"), "2.JPG": ("cup", ""), "3.JPG": ("rose", "cup")}
    for number, name in enumerate(entries):
        picture(folder / "images" / name, (50 * number, 0, 0))
    names = "true object", "typographic attack label"
    text = json.dumps({name: dict(zip(names, entry)) for name, entry in entries.items()})
    (folder / "annotations.json").write_text(text)
    read = read_benchmark(tmp_path)
    assert read.attacked.labels == ("cup", "rose") and read.attacked.words == ("iPad", "cup")
    assert read.clean.labels == ("cup",) and read.clean.words is None
    assert read.classes == ("cup", "iPad", "rose") and read.template == "a photo of {}."
    assert abs(read.attacked.open(1).getpixel((0, 0))[0] - 100) < 5
    (folder / "images" / "3.JPG").unlink()
    with pytest.raises(FileNotFoundError, match="annotations.json lists 3.JPG, but there is no"):
        read_benchmark(tmp_path)
    (folder / "annotations.json").write_text('{"1.JPG": {"object": "cup"}}')
    with pytest.raises(ValueError, match='1.JPG needs {"true object": "cup", "typographic attack label": "dog"}'):
        read_benchmark(tmp_path)
    (folder / "annotations.json").write_text(json.dumps({"2.JPG": dict(zip(names, entries["2.JPG"]))}))
    with pytest.raises(ValueError, match="no picture of .* has a word on it"):
        read_benchmark(tmp_path)
