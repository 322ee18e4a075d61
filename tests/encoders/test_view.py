"""What an encoder sees of a picture, against what its processor's settings say, and against what it then sees."""

import numpy as np
import pytest
from PIL import Image
from planted import PATCH, SIZES, brightness_model, prepare, seen_box
from tiny_models import build, processor

from cbsae_hub.encoders.vision import VisionEncoder

KINDS = ("crops", "crops more", "squashes", "pads", "pads to a square")
SHAPES = ((64, 64), (96, 64), (64, 96))


@pytest.fixture(params=SHAPES, ids=str, scope="module")
def shape(request):
    return request.param


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(kind, shape):
    return VisionEncoder(brightness_model(*shape), prepare(kind, *shape), 1, "patches")


def noise(size):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [*SIZES.values(), (640, 480), (3000, 301), (17, 30), (4, 9)], ids=str)
def test_the_view_is_what_the_settings_say(encoder, kind, shape, size):
    box, expected = encoder.view(Image.new("L", size)).box, seen_box(kind, size, *shape)
    for start, length, pixels in ((0, size[0], shape[1]), (1, size[1], shape[0])):
        at, should = (
            [pixels * (edge - ends[start]) / (ends[start + 2] - ends[start]) for edge in (0, length)]
            for ends in (box, expected)
        )
        within = 1 + max(0, np.abs(should).max() / pixels - 1)  # a pixel; what is cut off may lie less exactly
        assert np.abs(np.subtract(at, should)).max() < within, (box, expected)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_what_is_drawn_is_what_the_model_gets(encoder, shape, size):
    picture = noise(size)
    drawn = encoder.show(picture, 400)
    assert abs(drawn.width - drawn.height * shape[1] / shape[0]) <= 1, "the shape of the grid"
    pixels = encoder.pixel_values([picture])[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
    again = np.asarray(drawn.resize(shape[::-1], Image.Resampling.BICUBIC), float)
    rim = np.s_[3:-3, 3:-3]
    assert np.abs(pixels - again)[rim].mean() < 6


def test_a_square_picture_that_is_seen_whole_stays_as_it_is():
    encoder = VisionEncoder(brightness_model(64, 64), prepare("crops", 64, 64), 1, "patches")
    picture = noise((200, 200))
    expected = picture.copy()
    expected.thumbnail((128, 128))
    assert encoder.view(picture).box == (0, 0, 200, 200)
    np.testing.assert_array_equal(encoder.show(picture, 128), expected)
    assert encoder.framed(expected) is expected


def test_what_was_drawn_is_seen_again_as_it_is(encoder, kind, shape):
    drawn = encoder.show(noise((300, 260)), 200)
    framed = encoder.framed(drawn)
    assert (framed.size == drawn.size) == (kind != "crops more") or shape[0] != shape[1]
    box = encoder.view(framed).box
    pixels = encoder.pixel_values([framed])[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
    again = np.asarray(drawn.resize(shape[::-1], Image.Resampling.BICUBIC), float)
    assert kind == "pads" or np.abs(pixels - again)[3:-3, 3:-3].mean() < 6, box


def test_padding_has_its_own_colour():
    encoder = VisionEncoder(brightness_model(64, 64), prepare("pads", 64, 64), 1, "patches")
    encoder.processor.rescale_factor = 1 / 255
    drawn = np.asarray(encoder.show(Image.new("RGB", (100, 100), "red"), 100))
    assert (drawn[0, 0].tolist(), drawn[50, 50].tolist()) == ([0, 0, 0], [255, 0, 0])


def test_pictures_are_upright_and_a_line_of_pixels_is_no_error(encoder):
    turned = Image.new("RGB", (80, 40), "red")
    turned.getexif()[0x0112] = 6
    turned.info["exif"] = turned.getexif().tobytes()
    assert encoder.view(turned) == encoder.view(Image.new("RGB", (40, 80)))
    assert encoder.show(Image.new("RGB", (1, 50)), 128).size[0] >= 1


def test_the_rows_that_are_patches():
    parts = brightness_model(96, 64), prepare("crops", 96, 64), 1
    rows = {
        tokens: VisionEncoder(*parts, tokens).patch_rows for tokens in ("patches", "all", "cls", "mean", "random:3")
    }
    assert rows == {"patches": slice(0, None), "all": slice(1, None), "cls": None, "mean": None, "random:3": None}
    assert VisionEncoder(*parts, "patches").grid == (96 // PATCH, 64 // PATCH)


def test_pixels_beyond_the_last_whole_patch_are_no_part_of_the_view():
    encoder = VisionEncoder(build("Dinov2Model"), processor("Dinov2Model", 27, 18), 1, "patches")
    left, upper, right, lower = encoder.view(Image.new("RGB", (180, 270))).box
    assert (right - left, lower - upper) == pytest.approx((16 * 180 / 27, 24 * 180 / 27), abs=3)
    assert (left, upper) == pytest.approx(((27 - 18) / 2 * 180 / 27, (40.5 - 27) / 2 * 180 / 27), abs=5)
