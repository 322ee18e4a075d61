"""The typographic attack of Emoji World: a paper label with a word is put on a finished scene."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from training.emoji_world.backgrounds import SIDE
from training.emoji_world.glyphs import label_textures
from training.emoji_world.render import paste_labels

_textures = lru_cache(maxsize=1024)(lambda word: label_textures([word]))


def write_label(image: Image.Image, word: str, rng: np.random.Generator) -> Image.Image:
    """The scene with a label as scenes have them: of random place, width and angle.

    Raises:
        ValueError: If the picture is no scene of 64 x 64 pixels.
    """
    if image.size != (SIDE, SIDE):
        raise ValueError(f"labels are put on scenes of {SIDE} x {SIDE} pixels, got a picture of {image.size}")
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    canvas, first = pixels[None].float() / 255, np.zeros(1, dtype=int)
    paste_labels(canvas, first, _textures(word), first, rng)
    written = canvas[0].mul(255).round().to(torch.uint8)
    return Image.fromarray(written.permute(1, 2, 0).numpy())
