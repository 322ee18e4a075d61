"""Image datasets: Parquet or image folders, local or on the Hub, never code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, UnidentifiedImageError

from cbsae_hub.models import resolve_id


def load_images(
    source: str | Path, split: str, revision: str | None = None, beside: str | Path | None = None
) -> datasets.Dataset:
    """Opens one split of an image dataset.

    Args:
        source: A folder (Parquet files with a card, or an image folder) or a Hub id.
        split: Name of the split.
        revision: Of a Hub dataset.
        beside: A model folder next to which the dataset may lie, see :func:`cbsae_hub.models.resolve_id`.

    Returns:
        A dataset with at least the column ``image``, read from disk as needed.

    Raises:
        ValueError: If there is no such split (the existing ones are named) or no column ``image``.
        OSError: If there is no such dataset.
    """
    found = resolve_id(str(source), beside)
    try:
        names = datasets.get_dataset_split_names(found, revision=revision)
        if split not in names:
            raise ValueError(f"{source} has no split {split!r}; it has {', '.join(names)}")
        dataset = datasets.load_dataset(found, split=split, revision=revision)
    except (datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError) as error:
        raise FileNotFoundError(f"no image dataset at {source!r}: {error}") from error
    if "image" not in dataset.column_names:
        raise ValueError(f"{source} has no column 'image'; it has {', '.join(dataset.column_names)}")
    return dataset


def read_pictures(images: Any, start: int, stop: int) -> list[Image.Image]:
    """PIL images of rows ``start`` to ``stop`` of a map-style dataset with a column ``image``.

    Raises:
        ValueError: If one cannot be decoded; names its row.
    """
    try:
        return images[start:stop]["image"]
    except (UnidentifiedImageError, OSError):
        for row in range(start, stop):
            try:
                images[row : row + 1]["image"][0].load()
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"image {row} cannot be read: {error}") from error
        raise


def image_batches(images: Any, batch_size: int) -> Iterator[tuple[range, list[Image.Image]]]:
    """The rows of a dataset in order: ids and PIL images, ``batch_size`` at a time."""
    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        yield range(start, stop), read_pictures(images, start, stop)
