"""The one entrance for images: whatever a file holds, models and pages see it upright, in RGB, on white."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by the orientation that its file states (EXIF 2.32, tag 0x0112)."""
ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where PIL keeps what states it


class ImageDataset(Protocol):
    """A map-style dataset with the column ``image``, sliced as those of ``datasets``: ``images[a:b]["image"]``."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, rows: Any, /) -> Any:
        """A row as a dictionary; rows, as a dictionary of lists; or a column by its name."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as a camera or a painter meant it: upright, in RGB, what is transparent on white.

    Of a file with several frames, the one that PIL is at, which is the first after ``Image.open``. 16 bits become 8:
    values of mode "I" count as 16 bits if one is above 255.

    Args:
        image: Image of any mode but "F". If its EXIF or XMP states an orientation, it is turned: an image that was
            turned by hand must have lost that tag, as after ``ImageOps.exif_transpose``.

    Returns:
        The image itself, if it is so already; else a new one, which states no orientation.

    Raises:
        ValueError: If it is something else, or its values have no fixed white.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"expected pictures of PIL, as Image.open gives them, got {image!r:.80}")
    image.load()  # only then PIL knows everything that the file states; and the file may be closed afterwards
    image = _upright(image)
    colour = image.info.get("transparency") if image.mode in ("1", "L", "RGB", "I", "I;16") else None
    if image.mode == "RGB" and colour is None:
        return image
    opaque = None if colour is None else Image.fromarray(_differs(image, colour))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "La":
        image = image.convert("LA")  # PIL has no direct way
    if opaque is None and image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = image.getchannel("A")
    if opaque is None:
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=opaque)
    return canvas


def white_image() -> Image.Image:
    """The image on which neurons are set where no other is given.

    It is square: some preprocessing pads other shapes with another colour. Its size does not matter to a model.
    """
    return Image.new("RGB", (336, 336), "white")


def grid_of(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of images of one size, as one image."""
    width, height = rows[0][0].size
    grid = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            grid.paste(image, (x * width, y * height))
    return grid


def require_images(images: Sequence[Image.Image]) -> None:
    """Raises ValueError if there are no pictures, or one that is not in a list."""
    if isinstance(images, (Image.Image, str, Path)):
        raise ValueError(f"give pictures as a list, also a single one: [picture]; got {images!r:.80}")
    if not len(images):
        raise ValueError("no images were given")


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its file says. ``ImageOps.exif_transpose`` writes the EXIF anew, and fails where it cannot."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF, of which PIL raises half a dozen types: as viewers, as if there were none
        return image
    if orientation not in TURNS:
        return image
    turned = image.transpose(TURNS[orientation])
    turned.info = {key: value for key, value in turned.info.items() if key not in ORIENTED}
    return turned


def _differs(image: Image.Image, colour: Any) -> np.ndarray:
    """Marks the pixels of an image that have another colour than the transparent one, bool ``[h, w]``."""
    pixels = np.asarray(image)
    if image.mode == "RGB":
        # PIL keeps 8 of a file's 16 bits of a pixel, but all 16 of this colour.
        return (pixels != (np.array(colour) >> 8 if max(colour) > 255 else colour)).any(-1)
    if image.mode == "L" and 0 < colour < 16:
        # PIL stretches 2 and 4 bits to 8, but not this colour. Were the file one of 8 bits in which the colour occurs,
        # its pixels would not all be multiples.
        colour *= next((step for step, top in ((85, 3), (17, 15)) if colour <= top and not (pixels % step).any()), 1)
    return pixels != (bool(colour) if image.mode == "1" else colour)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A picture of more bits as mode L: PIL would cut values off at 255, and all but the darkest would be white."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise ValueError(
            f"a picture of mode {image.mode} with values from {low:g} to {high:g} does not say which of them is white: "
            "scale them to 0 to 255 and make it Image.fromarray(values.round().astype('uint8'))"
        )
    if image.mode != "I" or high > 255:
        values = np.rint(values / 257)
    return Image.fromarray(values.astype(np.uint8))
