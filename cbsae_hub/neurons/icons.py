"""The icon of a neuron: the part of its strongest picture where it fires, small enough to stand beside its name."""

import io

import numpy as np
from PIL import Image

SIDE = 64  # pixels
BRIGHT = 0.5  # patches that count fire at least so strongly, as a share of the picture's strongest
SMALLEST = 0.375  # of the picture's shorter side: a smaller part does not show what it is a part of
QUALITY = 80  # of the WebP: at this size nobody sees more


def firing_part(picture: Image.Image, patch_map: np.ndarray | None) -> Image.Image:
    """The square of a picture in which a neuron fires most, as large as an icon.

    It holds the patches with at least half the strength of the strongest one and one patch around them, as far as they
    fit into the picture's shorter side. Without a map, or with an empty one, it is the middle of the picture.

    Args:
        picture: RGB picture in the shape of the map.
        patch_map: ``[rows, columns]``, strengths from 0.
    """
    shorter, (width, height) = min(picture.size), picture.size
    if patch_map is None or not patch_map.max() > 0:
        low, high, side = np.zeros(2), np.array([width, height], dtype=float), float(shorter)
    else:
        rows, columns = np.nonzero(patch_map >= BRIGHT * patch_map.max())
        cell = np.array([width, height]) / patch_map.shape[::-1]
        low = (np.array([columns.min(), rows.min()]) - 1) * cell
        high = (np.array([columns.max(), rows.max()]) + 2) * cell
        side = float(np.clip((high - low).max(), SMALLEST * shorter, shorter))
    x, y = np.clip((low + high - side) / 2, 0, np.array([width, height]) - side).round().astype(int).tolist()
    return picture.crop((x, y, x + round(side), y + round(side))).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def icon_bytes(picture: Image.Image) -> bytes:
    """WebP of a square picture as an icon."""
    buffer = io.BytesIO()
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()
