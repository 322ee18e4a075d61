"""Pictures that show nothing of Emoji World: coloured noise, smooth at some scale."""

import datasets
import numpy as np
from PIL import Image

from training.emoji_world.backgrounds import SIDE, smooth_noise

CELLS = (4, 8, 16, 32, 64)  # across a picture


def noise_dataset(count: int, seed: int = 0) -> datasets.Dataset:
    """A dataset of ``count`` pictures in the size of a scene, without labels."""
    rng = np.random.default_rng(seed)

    def picture() -> Image.Image:
        cells = int(rng.choice(CELLS))
        channels = [smooth_noise(rng, cells)[:SIDE, :SIDE] for _ in range(3)]
        return Image.fromarray((255 * np.stack(channels, -1)).round().astype(np.uint8))

    return datasets.Dataset.from_dict({"image": [picture() for _ in range(count)]}).cast_column(
        "image", datasets.Image()
    )
