"""A world of coloured shapes: the real one's glyphs need a font, which a machine that only runs tests may lack."""

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState

from training.emoji_world.glyphs import TEXTURE, Atlas, Concept


def _sprite(colour: tuple[float, float, float], side: int, fraction: float) -> torch.Tensor:
    """An opaque square of a colour in the middle of a transparent texture."""
    texture = torch.zeros(4, side, side)
    border = round(side * (1 - fraction) / 2)
    inner = slice(border, side - border)
    texture[:3, inner, inner] = torch.tensor(colour)[:, None, None]
    texture[3, inner, inner] = 1.0
    return texture


@pytest.fixture(scope="session")
def atlas() -> Atlas:
    names = "apple owl pizza dog boat ring star drum frog kite lamp moon nest oar pear rose".split()
    concepts = tuple(Concept(name, chr(97 + i), "Things", "thing-small") for i, name in enumerate(names))
    colours = [((i * 37 % 97) / 97, (i * 53 % 89) / 89, (i * 71 % 83) / 83) for i in range(len(names))]
    glyphs, labels = (
        tuple(torch.stack([_sprite(c, side, size) for c in colours]) for side in (TEXTURE, TEXTURE // 2))
        for size in (1.0, 0.5)
    )
    return Atlas(concepts, glyphs, labels)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A place for what datasets makes of the published scenes, which is thrown away after the tests."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(autouse=True)
def own_precision():
    """A training chooses its precision whatever that of the tests before was."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
