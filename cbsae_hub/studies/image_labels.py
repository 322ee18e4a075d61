"""Labels of images that may be drawn as they are read: once, and then from a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cbsae_hub.hub.files import read_json, write_json
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.truth import label_sets
from cbsae_hub.studies.layer_saes import key_of

BATCH = 256


class _Column:
    """The values of one column, as a dataset has them."""

    def __init__(self, images: ImageDataset, name: str):
        self.features: Mapping[str, Any] | None = getattr(images, "features", None)
        if name in getattr(images, "column_names", ()):  # no picture needs to be decoded
            images = images.select_columns([name])  # type: ignore[attr-defined]  # who has columns has it
        starts = tqdm(range(0, len(images), BATCH), desc="labels", unit="batch", disable=len(images) < 4 * BATCH)
        self.cells = [value for start in starts for value in images[start : min(start + BATCH, len(images))][name]]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, _name: str) -> list[Any]:
        return self.cells


def read_labels(images: ImageDataset, column: str, file: Path, classes: Sequence[str] | None = None) -> list[list[str]]:
    """The labels of each image, sorted.

    Args:
        images: The dataset.
        column: See :class:`cbsae_hub.scoring.truth.Truth`, whose errors are these.
        file: JSON file that keeps them; it is read if it is there.
        classes: Names of the numbers in the column, instead of the dataset's own.

    Raises:
        ValueError: If the file is of another number of images.
    """
    if not file.is_file():
        values = _Column(images, column.removesuffix("?").partition(".")[0])
        sets = label_sets(values, column) if classes is None else [{classes[int(v)]} for v in values.cells]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, [sorted(labels) for labels in sets])
    labels = read_json(file)
    if len(labels) != len(images):
        raise ValueError(
            f"{file} has labels of {len(labels)} images, not of {len(images)}: delete it to read them again"
        )
    return labels


def label_file(folder: Path, *of: Any) -> Path:
    """The file in a folder that keeps the labels of images, by what says which they are."""
    return folder / "labels" / f"{key_of(*of)}.json"


def only_label(labels: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """The number of each image's only label among some names, ``[images]``; -1 if it has none of them, or several."""
    index = {name: number for number, name in enumerate(names)}
    return np.array([index.get(own[0], -1) if len(own) == 1 else -1 for own in labels], dtype=np.int64)
