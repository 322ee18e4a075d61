import re
from collections import namedtuple
from html.parser import HTMLParser

import numpy as np
import pytest

from cbsae_hub.studio.tabs import find
from cbsae_hub.studio.tabs.inspect_image import patch_grid
from cbsae_hub.studio.view import html


class Tags(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


EVIL = "<img src=x onerror=alert(1)>\"'&"


def test_names_from_models_are_text():
    row = namedtuple("Row", "name score neuron kind designated")(EVIL, 1.0, 3, "cb", EVIL * 2)
    safe = html.PIECES.facts([(EVIL, html.neuron_title(row), EVIL)]) + find._verdict("weak", EVIL, EVIL, EVIL)
    safe += html.result("", {"q": EVIL}, "find") + patch_grid(b"", np.zeros((1, 1)), EVIL)
    safe += html.PIECES.table([EVIL, EVIL], [[EVIL, EVIL]]) + html.PIECES.progress(0.5, EVIL)
    tags = Tags(safe).tags
    assert "img" not in [tag for tag, _ in tags]
    assert not any("onerror" in attributes for _, attributes in tags)


def test_titles_are_never_bare_numbers():
    row = namedtuple("Row", "name score neuron kind designated")
    assert html.neuron_title(row("pizza", 3.414, 12, "sae", None)) == "pizza (3.41) - #12"
    assert html.neuron_title(row(None, 0.0, 5, "sae", None)) == "no name - #5"
    assert html.neuron_title(row("pizza", 3.414, 12, "cb", "pizza")) == "pizza (3.41, concept neuron) - #12"
    assert html.neuron_title(row("disc", 3.414, 12, "cb", "pizza")) == "pizza (found to be disc, 3.41) - #12"


def test_grid_has_one_labelled_button_a_patch_and_one_way_in():
    heat = np.array([[0, 0.5, 1.0], [0.25, 0, 0]])
    cells = [a for tag, a in Tags(patch_grid(b"x", heat, "caption", chosen=4)).tags if tag == "button"]
    assert [int(cell["data-patch"]) for cell in cells] == list(range(6))
    assert cells[2]["aria-label"] == "patch row 1, column 3, strength 1.00"
    assert [cell["aria-pressed"] for cell in cells].index("true") == 4
    assert [cell["tabindex"] for cell in cells].count("0") == 1


def test_the_grid_has_the_shape_of_its_picture():
    drawn = patch_grid(b"x", np.zeros((3, 2)), "caption", ratio=2 / 3)
    grid = next(attributes for tag, attributes in Tags(drawn).tags if tag == "div")
    assert "aspect-ratio:0.6667;" in grid["style"]
    assert "repeat(2,1fr);grid-template-rows:repeat(3,1fr)" in grid["style"] and grid["data-columns"] == "2"


@pytest.mark.parametrize("heat", [-1, 0, 0.3, 1, 7])
def test_colours_are_in_range_and_order_is_lightness(heat):
    r, g, b, alpha = map(float, re.findall(r"[\d.]+", html.colour(heat)))
    assert max(r, g, b) <= 255 and 0 <= alpha <= 0.8
    assert (alpha == 0) == (heat <= 0)
    luma = [sum(map(float, re.findall(r"[\d.]+", html.colour(h))[:3])) for h in (0.1, 0.5, 0.9)]
    assert luma == sorted(luma)
