"""The part of a picture that is a neuron's icon, cut out by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from cbsae_hub.neurons.icons import SIDE, firing_part, icon_bytes
from cbsae_hub.neurons.strength import usual_strength


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def map_of(rows, columns, **strengths):
    """A map with these strengths at patches named ``r1c2``."""
    heat = np.zeros((rows, columns))
    for place, strength in strengths.items():
        row, column = place[1:].split("c")
        heat[int(row), int(column)] = strength
    return heat


@pytest.mark.parametrize(
    ("size", "heat", "box"),
    [
        ((64, 64), map_of(8, 8, r2c5=0.6), (32, 8, 56, 32)),  # one patch, and one around it
        (
            (64, 64),
            map_of(8, 8, r2c5=0.6, r2c6=0.31, r7c0=0.29),
            (32, 4, 64, 36),
        ),  # weaker than half
        ((64, 64), map_of(8, 8, r0c0=1.0), (0, 0, 24, 24)),  # the square is moved into the picture
        ((96, 96), map_of(24, 24, r12c12=1.0), (32, 32, 68, 68)),  # small patches: not smaller than three eighths
        ((64, 64), map_of(8, 8, r0c0=1.0, r7c7=1.0), (0, 0, 64, 64)),
        ((64, 96), map_of(3, 2, r2c0=1.0, r2c1=1.0), (0, 32, 64, 96)),  # no wider than the picture
        ((96, 64), np.zeros((2, 3)), (16, 0, 80, 64)),  # nowhere: the middle
        ((96, 64), None, (16, 0, 80, 64)),
    ],
)
def test_the_part_is_where_the_neuron_fires(size, heat, box):
    picture = noise(*size)
    by_hand = picture.crop(box).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(firing_part(picture, heat), by_hand)


def test_an_icon_is_a_small_webp():
    icon = Image.open(io.BytesIO(icon_bytes(Image.new("RGB", (256, 256), "red"))))
    assert (icon.format, icon.size) == ("WEBP", (SIDE, SIDE))
    assert np.abs(np.asarray(icon.convert("RGB"), int) - (255, 0, 0)).max() < 8


def test_a_neuron_is_set_to_what_was_measured_or_to_four_times_its_p99():
    assert usual_strength(2.0, 50.0, [1.0]) == 50.0
    assert usual_strength(2.0, None, [1.0]) == 8.0
    assert usual_strength(np.nan, None, [1.0, 3.0, np.nan, 9.0]) == usual_strength(0.0, None, [3.0]) == 12.0
