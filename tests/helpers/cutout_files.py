"""Cut-outs as photographs are, without a photograph."""

import numpy as np
from PIL import Image


def noise(width: int, height: int, colour: tuple[int, int, int], seed: int = 0) -> Image.Image:
    """An ellipse of a colour with noise, as photographs have it, on nothing."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(colour, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    alpha = (255 * (x**2 + y**2 <= 1.05)).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, alpha]))
