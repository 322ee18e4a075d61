"""The emoji that are concepts of Emoji World, and their pictures as textures.

The concepts come from Unicode's ``emoji-test.txt`` and the system's emoji font by rules, not by a list:

1. one code point (no flags, families, skin tones, keycaps), of a group that shows things (no flags, no symbols);
2. no glyph that exists in skin tones: such glyphs are people and hands, told apart by pose and tone alone;
3. the name is one word, so that a model asked for "exactly one word" can say it, and is not the plural of another;
4. the picture differs from that of each earlier concept: the root mean square distance of the two 16 x 16
   thumbnails, over a white and a black background, exceeds 0.18 of the full range. This drops most smileys.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.distance import cdist

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only size that the font's bitmaps come in
TEXTURE = 64  # pixels a side of the larger texture; the smaller one has half
MIN_DISTANCE = 0.18
NOT_THINGS = {"Flags", "Symbols", "Component"}
SKIN_TONES = range(0x1F3FB, 0x1F400)
LINE = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E\S+ (.+)")


@dataclass(frozen=True)
class Concept:
    """One emoji: its name, its character, and Unicode's group and subgroup of it."""

    name: str
    character: str
    group: str
    subgroup: str


def _read_unicode(path: Path) -> tuple[list[Concept], set[str]]:
    """All single-code-point emoji in Unicode's order, and the characters that exist in skin tones."""
    concepts, toned, group, subgroup = [], set(), "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        elif match := LINE.match(line):
            points = [int(point, 16) for point in match[1].split() if point != "FE0F"]
            if len(points) == 1:
                concepts.append(Concept(match[2].lower(), chr(points[0]), group, subgroup))
            elif points[1] in SKIN_TONES:
                toned.add(chr(points[0]))
    return concepts, toned


def _draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """The glyph, cropped and centred on a transparent square."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((80, 80), character, font=font, embedded_color=True, anchor="mm")
    glyph = canvas.crop(canvas.getbbox())
    side = max(glyph.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def _thumbnail(glyph: Image.Image) -> np.ndarray:
    flat = []
    for background in ("white", "black"):
        canvas = Image.new("RGB", glyph.size, background)
        canvas.paste(glyph, (0, 0), glyph)
        flat.append(np.asarray(canvas.resize((16, 16), Image.Resampling.BOX), dtype=np.float64).ravel() / 255)
    return np.concatenate(flat)


def select_concepts(
    emoji_test: Path = EMOJI_TEST, font_path: Path = EMOJI_FONT
) -> tuple[list[Concept], list[Image.Image]]:
    """Applies the four rules of this module.

    Returns:
        The concepts in Unicode's order, and their glyphs as square RGBA images.

    Raises:
        FileNotFoundError: If the font or Unicode's file is missing; says which Debian packages bring them.
    """
    for path, package in ((emoji_test, "unicode-data"), (font_path, "fonts-noto-color-emoji")):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: install Debian's {package} (it is needed only to rebuild)")
    every, toned = _read_unicode(emoji_test)
    names = {concept.name for concept in every}
    font = ImageFont.truetype(str(font_path), FONT_SIZE)
    concepts, glyphs, thumbnails = [], [], []
    for concept in every:
        one_word = re.fullmatch(r"[a-z]+(-[a-z]+)*", concept.name)
        plural = concept.name.removesuffix("s") != concept.name and concept.name.removesuffix("s") in names
        if concept.group in NOT_THINGS or concept.character in toned or not one_word or plural:
            continue
        glyph = _draw(concept.character, font)
        thumbnail = _thumbnail(glyph)
        if thumbnails:
            distances = cdist(thumbnail[None], np.stack(thumbnails))[0] / np.sqrt(thumbnail.size)
            if distances.min() <= MIN_DISTANCE:
                continue
        concepts.append(concept)
        glyphs.append(glyph)
        thumbnails.append(thumbnail)
    return concepts, glyphs


def _label(word: str) -> Image.Image:
    """A word in dark ink on a paper label, centred on a transparent square."""
    font = ImageFont.load_default(size=30)
    x0, y0, x1, y1 = font.getbbox(word)
    width, height = x1 - x0 + 16, y1 - y0 + 14
    side = max(width, height, 130)  # short words get no larger letters than long ones
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(square)
    x, y = (side - width) // 2, (side - height) // 2
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=(250, 246, 232, 255), outline=(90, 80, 60, 255), width=2)
    draw.text((x + 8 - x0, y + 7 - y0), word, font=font, fill=(20, 20, 30, 255))
    return square


def _texture(image: Image.Image, side: int) -> np.ndarray:
    """Premultiplied RGBA in 0..1, channels first: filtering then never bleeds colour from transparent pixels."""
    array = np.asarray(image.convert("RGBa").resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255
    return array.transpose(2, 0, 1)


def _pyramid(images: list[Image.Image]) -> tuple[torch.Tensor, ...]:
    """The textures of images at two sizes."""
    sides = TEXTURE, TEXTURE // 2
    return tuple(torch.from_numpy(np.stack([_texture(image, side) for image in images])) for side in sides)


def label_textures(words: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Paper labels with words on them, as textures at two sizes; see :class:`Atlas`. It needs no emoji font."""
    return _pyramid([_label(word) for word in words])


@dataclass(frozen=True)
class Atlas:
    """The pictures that scenes are composed of.

    Attributes:
        concepts: Subjects of the textures; the labels have the same order.
        glyphs: Premultiplied RGBA of each concept at two sizes, ``[concepts, 4, 64, 64]`` and ``[.., 32, 32]``.
        labels: The concept's name on a paper label, likewise.
    """

    concepts: tuple[Concept, ...]
    glyphs: tuple[torch.Tensor, torch.Tensor]
    labels: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def build(cls) -> "Atlas":
        """Draws every concept and label (a few seconds; needs the emoji font)."""
        concepts, images = select_concepts()
        return cls(tuple(concepts), _pyramid(images), label_textures([concept.name for concept in concepts]))
