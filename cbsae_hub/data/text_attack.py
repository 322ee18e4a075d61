"""Typographic attacks on one's own pictures: the name of another class is written on each.

As Azuma and Matsui (2023) make theirs to train a Defense-Prefix: size, place, colours, stroke and line breaks are
drawn, the text is made smaller until it fits.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cbsae_hub.pictures import to_rgb

SIDE = 224  # pixels of an attacked picture's side
SIZES = (20, 40)  # of the letters, in pixels
COLOURS = ("white", "blue", "green", "red", "magenta", "cyan", "yellow", "black")
STROKE = 1  # pixels
# The first one of each row that the system has: a face with serifs, one of a typewriter, and one without serifs.
FACES = (
    ("times.ttf", "Times New Roman.ttf", "LiberationSerif-Regular.ttf", "FreeSerif.ttf", "DejaVuSerif.ttf"),
    ("cour.ttf", "Courier New.ttf", "LiberationMono-Regular.ttf", "FreeMono.ttf", "DejaVuSansMono.ttf"),
    ("arial.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "FreeSans.ttf", "DejaVuSans.ttf"),
)


class TextAttack:
    """Writes words on pictures.

    Args:
        fonts: Files of TrueType or OpenType fonts, or their names where the system has them; default those of
            :data:`FACES` that are there.

    Attributes:
        fonts: The fonts of which one is drawn for each picture.

    Raises:
        ValueError: If a font cannot be read, or the system has none of the default ones.
    """

    def __init__(self, fonts: Sequence[str | Path] = ()):
        self.fonts = tuple(map(str, fonts)) or _existing_fonts()
        for font in self.fonts:
            if not _is_readable(font):
                raise ValueError(f"the font {font} cannot be read: name the file of a TrueType or OpenType font")

    def __call__(self, image: Image.Image, word: str, rng: np.random.Generator) -> Image.Image:
        """A picture of 224 x 224 pixels with a word on it.

        Args:
            image: Any picture; its middle square is taken.
            word: Words, which are broken into lines, see :func:`lines_of`.
            rng: Source of font, size, colours and place.
        """
        square = ImageOps.fit(to_rgb(image), (SIDE, SIDE), Image.Resampling.BICUBIC)
        pen, text = ImageDraw.Draw(square), lines_of(word)
        name, size = self.fonts[rng.integers(len(self.fonts))], int(rng.integers(SIZES[0], SIZES[1] + 1))
        while True:
            x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=_font(name, size), stroke_width=STROKE)
            room = SIDE - (x1 - x0), SIDE - (y1 - y0)
            if min(room) >= 0 or size == 1:
                break
            size -= 1
        x, y = (rng.uniform(0, max(0, free)) for free in room)
        fill, stroke = rng.choice(COLOURS, 2, replace=False)
        place, font = (x - x0, y - y0), _font(name, size)
        pen.text(place, text, font=font, fill=str(fill), stroke_width=STROKE, stroke_fill=str(stroke))
        return square


def lines_of(word: str) -> str:
    """A text in at most two lines: of two or three words they break after the first, of more after the second."""
    words = word.split()
    first = 2 if len(words) > 3 else 1
    return "\n".join(" ".join(part) for part in (words[:first], words[first:]) if part)


def _existing_fonts() -> tuple[str, ...]:
    fonts = [next(filter(_is_readable, row), None) for row in FACES]
    existing = tuple(font for font in fonts if font is not None)
    if not existing:
        names = ", ".join(name for row in FACES for name in row)
        raise ValueError(
            f"this system has none of the fonts {names}: install one (Debian: apt install fonts-dejavu-core), or name "
            "files of fonts, fonts: [my-font.ttf]"
        )
    return existing


def _is_readable(font: str) -> bool:
    try:
        _font(font, SIZES[0])
    except OSError:
        return False
    return True


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(name, size)
