"""Makes the icons of a pack: the part of a neuron's strongest picture where it fires, beside what unCLIP draws."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from tqdm import tqdm

from cbsae_hub.data.images import read_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.neurons.icons import firing_part, icon_bytes
from cbsae_hub.pictures import ImageDataset

LONGER_SIDE = 512  # pixels of a picture before a part of it is cut out


def crops(examples: pd.DataFrame, maps: np.ndarray, images: ImageDataset, encoder: VisionEncoder) -> dict[int, bytes]:
    """The part of each neuron's strongest image where it fires, as WebP by the neuron's number.

    Neurons that never fire have none. Each picture is read as large as it is: pictures of a pack are smaller.

    Args:
        examples: See :func:`cbsae_hub.scoring.examples.choose_examples`; row i has map i.
        maps: ``[examples, patches]``.
        images: The images.
        encoder: The encoder that sees them.
    """
    strongest = examples[(examples["strip"] == "top") & (examples["rank"] == 0)]
    icons: dict[int, bytes] = {}
    with tqdm(total=len(strongest), desc="icons", unit="neuron") as bar:
        for image, rows in strongest.groupby("image"):  # many neurons share their strongest picture
            picture = encoder.show(read_images(images, int(image), int(image) + 1)[0], LONGER_SIDE)
            for row in rows.itertuples():
                heat = None if encoder.patch_rows is None else maps[row.Index].reshape(encoder.grid)
                icons[int(row.neuron)] = icon_bytes(firing_part(picture, heat))
            bar.update(len(rows))
    return icons


def icon_table(neurons: pd.Series, crops: Mapping[int, bytes], drawn: Mapping[int, bytes]) -> pd.DataFrame:
    """The icons of a pack: ``neuron``, ``crop`` and ``drawn``, both WebP or None; without rows of nothing."""
    rows = [(neuron, crops.get(neuron), drawn.get(neuron)) for neuron in neurons if neuron in crops or neuron in drawn]
    return pd.DataFrame(rows, columns=["neuron", "crop", "drawn"])
