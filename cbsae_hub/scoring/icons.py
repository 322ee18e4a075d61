"""Makes the icons of a pack: the part of a neuron's strongest picture where it fires, beside what unCLIP draws."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tqdm import tqdm

from cbsae_hub.data.images import read_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.neurons.icons import firing_part, icon_bytes
from cbsae_hub.pictures import ImageDataset

SEEN = 512  # pixels of the longer side of a picture before a part of it is cut out


def crops(examples: pd.DataFrame, maps: np.ndarray, images: ImageDataset, encoder: VisionEncoder) -> dict[int, bytes]:
    """The part of each neuron's strongest image where it fires, as WebP by the neuron's number.

    Neurons that never fire have none. Each picture is read as large as it is: pictures of a pack are smaller.

    Args:
        examples: See :func:`cbsae_hub.scoring.examples.choose_examples`; row i has map i.
        maps: ``[examples, patches]``.
        images: The images.
        encoder: The encoder that sees them.
    """
    strongest = examples[(examples["strip"] == "top") & (examples["rank"] == 0)].sort_values("image")
    icons, picture, shown = {}, None, -1
    for row in tqdm(strongest.itertuples(), "icons", len(strongest), unit="neuron"):
        if row.image != shown:  # many neurons share their strongest picture
            picture, shown = encoder.show(read_images(images, row.image, row.image + 1)[0], SEEN), row.image
        heat = None if encoder.patch_rows is None else maps[row.Index].reshape(encoder.grid)
        icons[int(row.neuron)] = icon_bytes(firing_part(picture, heat))
    return icons


def icon_table(neurons: pd.Series, crops: Mapping[int, bytes], drawn: Mapping[int, bytes]) -> pd.DataFrame:
    """The icons of a pack: ``neuron``, ``crop`` and ``drawn``, both WebP or None; without rows of nothing."""
    rows = [(neuron, crops.get(neuron), drawn.get(neuron)) for neuron in neurons if neuron in crops or neuron in drawn]
    return pd.DataFrame(rows, columns=["neuron", "crop", "drawn"])
