"""Images that visitors bring or choose: the guard of uploads, and the names of images in the page's state."""

import base64
import io
import re
import warnings
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from cbsae_hub.neurons.pack import Pack
from cbsae_hub.pictures import to_rgb, white_image
from cbsae_hub.studio.server.memory import Memory
from cbsae_hub.studio.server.refusal import Refused

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000
MAX_BYTES = 8_000_000
MAX_SIDE = 512  # pixels of the longer side of a picture as the page shows it
MAX_UPLOADS = 128  # of all visitors together, each at most MAX_SIDE pixels wide: 100 MB
WHITE = "white"
MINE = "mine~"  # before the secret name of an upload; an address says something else behind it


def read_image(source: str | BinaryIO) -> Image.Image:
    """Opens an upload, a file or its path, as an upright RGB picture.

    Raises:
        Refused: If it is no picture in a known format, broken, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(source, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Refused(
                        f"This picture has {image.width} x {image.height} pixels. Please take one of at most "
                        f"{MAX_PIXELS // 1_000_000} million."
                    )
                if min(image.size) < 2:
                    raise Refused("This picture is only a line of pixels. Please take another one.")
                image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # JPEG only: decodes to about what is needed
                return to_rgb(image)
        except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Refused("This is not a picture in PNG, JPEG or WebP. Please take another file.") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise Refused("This picture is damaged and cannot be opened. Please take another one.") from error


def as_webp(image: Image.Image, **options: Any) -> bytes:
    """Returns a picture as the page sends it; ``options`` are Pillow's, instead of a quality of 90."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **(options or {"quality": 90}))
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """Returns WebP bytes as an address that needs no request."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def smaller(image: Image.Image) -> Image.Image:
    """Returns a picture of which no side is longer than :data:`MAX_SIDE` pixels."""
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return small


class ImageStore:
    """Pictures by short names: "white", "s12" for image 12 of a pack, or "mine~" and the secret key of an upload."""

    def __init__(self) -> None:
        self._uploads: Memory[Image.Image] = Memory(MAX_UPLOADS)

    def keep(self, image: Image.Image) -> str:
        """Keeps an upload, made smaller, and returns its name."""
        return MINE + self._uploads.keep(smaller(image))

    def has(self, name: str) -> bool:
        """Returns whether a name is that of an upload that is still there."""
        return name.startswith(MINE) and self._uploads.get(name.removeprefix(MINE)) is not None

    def get(self, name: Any, pack: Pack) -> Image.Image:
        """Returns the picture of a name; raises Refused if there is none, or it was forgotten."""
        name = str(name)
        if name == WHITE:
            return white_image()
        if is_sample(name, pack):
            return pack.image(int(name[1:]))
        upload = self._uploads.get(name.removeprefix(MINE)) if name.startswith(MINE) else None
        if upload is None:
            raise Refused("This picture is no longer in memory. Reload the page: your browser brings it back.")
        return upload


def is_sample(name: str, pack: Pack) -> bool:
    """Returns whether a name is that of one of the pack's pictures, which a link may hold."""
    return re.fullmatch(r"s\d{1,9}", name, re.ASCII) is not None and pack.has_image(int(name[1:]))


def from_text(text: Any, pack: Pack) -> Image.Image:
    """Reads a picture of a public endpoint: "white", "s12", or base64, or raises Refused; nothing is ever fetched."""
    if not isinstance(text, str):
        raise Refused("A picture is given as text: white, s12 for image 12 of the pack, or base64 of a file.")
    if text == WHITE or is_sample(text, pack):
        return ImageStore().get(text, pack)
    return from_data(text)


def from_data(text: Any) -> Image.Image:
    """Reads a PNG, JPEG or WebP from base64, perhaps behind "data:...;base64,"; raises Refused otherwise."""
    content = re.sub(r"^data:[^,]*;base64,", "", "".join(str(text).split()), flags=re.IGNORECASE)
    if len(content) > MAX_BYTES * 4 / 3 + 4:
        raise Refused(f"This picture is larger than {MAX_BYTES // 1_000_000} MB. Please send a smaller one.")
    try:
        decoded = base64.b64decode(content, validate=True)
    except ValueError as error:  # also of letters that are not ASCII
        raise Refused(
            "A picture is white, s12 for image 12 of the pack, or base64 of a PNG, JPEG or WebP; addresses are not "
            "fetched."
        ) from error
    return read_image(io.BytesIO(decoded))
