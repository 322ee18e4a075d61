"""Image datasets: Parquet or image folders, local or on the Hub, never code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.parquet.parquet import Parquet
from PIL import Image

from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.models import resolve_id


def load_images(
    source: str | Path, split: str, revision: str | None = None, beside: str | Path | None = None
) -> datasets.Dataset:
    """Opens one split of an image dataset.

    Args:
        source: A folder (Parquet files, perhaps with splits in the card's YAML header, or images) or a Hub id.
        split: Name of the split, or several joined by "+", one after the other.
        revision: Of a Hub dataset: branch, tag or commit.
        beside: A model folder next to which the dataset may lie, see :func:`cbsae_hub.models.resolve_id`.

    Returns:
        A dataset with at least the column ``image``, read from disk as needed.

    Raises:
        ValueError: If there is no such split (the existing ones are named), no column ``image``, the files are
            damaged, or neither Parquet nor images.
        OSError: If there is no such dataset, or the Hub cannot be reached.
    """
    builder = _find(source, revision, beside)
    known = builder.config.data_files
    for part in split.split("+") if known is not None else ():
        if part not in known:
            raise ValueError(f"{source} has no split {part!r}; it has {', '.join(map(str, known))}")
    try:
        builder.download_and_prepare()
        dataset = builder.as_dataset(split)
    except (datasets.exceptions.DatasetsError, ValueError) as error:
        raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error
    if not isinstance(dataset.features.get("image"), datasets.Image):
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in dataset.features.items())
        raise ValueError(f"{source} has no column 'image' of images; it has {columns}")
    return dataset


def commit_of_images(source: str | Path, revision: str | None = None) -> str | None:
    """The commit that a revision of a Hub dataset stands for now; None for a folder."""
    return None if Path(source).is_dir() else _find(source, revision).hash


def _find(source: str | Path, revision: str | None = None, beside: str | Path | None = None) -> datasets.DatasetBuilder:
    found = resolve_id(str(source), beside)
    # Absolute: `datasets` takes a bare "csv" or "parquet" for the format of the files in the working directory.
    if Path(found).is_dir():
        found = str(Path(found).resolve())
    elif Path(found).exists() or found.count("/") != 1 or found.startswith((".", "/")):
        raise FileNotFoundError(f"no image dataset at {str(source)!r}: give an existing folder or a Hub id, owner/name")
    try:
        builder = datasets.load_dataset_builder(found, revision=revision)
    except OSError as error:  # no data files there, no such Hub dataset, no network
        raise FileNotFoundError(f"no image dataset at {str(source)!r}: {error}") from error
    except (RuntimeError, ValueError) as error:  # a script, a card that does not fit the files, several configurations
        raise ValueError(f"{str(source)!r} cannot be opened as Parquet or images: {error}") from error
    if not isinstance(builder, (Parquet, ImageFolder)):
        raise ValueError(f"{str(source)!r} is neither Parquet nor images, but {type(builder).__mro__[1].__name__}")
    return builder


def read_pictures(images: Any, start: int, stop: int) -> list[Image.Image]:
    """PIL images of rows ``start`` to ``stop`` of a map-style dataset with a column ``image``.

    Raises:
        ValueError: If one cannot be decoded; names its row. None is skipped, so that rows keep their numbers.
    """
    try:
        return images[start:stop]["image"]
    except Exception:  # PIL raises a dozen types, SyntaxError among them, for files that are no images
        for row in range(start, stop):
            try:
                images[row : row + 1]["image"][0].load()
            except Exception as error:
                raise ValueError(f"image {row}{_file_of(images, row)} cannot be read: {error}") from error
        raise


def _file_of(images: Any, row: int) -> str:
    """The file name of a picture, if its dataset knows it."""
    if not isinstance(images, datasets.Dataset) or "image" not in images.features:
        return ""
    path = images.cast_column("image", datasets.Image(decode=False))[row]["image"]["path"]
    return f" ({path})" if path else ""


def image_batches(
    images: Any, batch_size: int, first: int = 0, step: int = 1
) -> Iterator[tuple[range, list[Image.Image]]]:
    """The rows of a dataset in order: ids and PIL images, ``batch_size`` at a time, the next ones decoded ahead.

    Args:
        images: Map-style dataset with a column ``image``.
        batch_size: Rows a batch.
        first: Batch to begin with.
        step: Take every ``step``-th batch from there, as one process of several does.
    """

    def load(start: int) -> tuple[range, list[Image.Image]]:
        ids = range(start, min(start + batch_size, len(images)))
        return ids, read_pictures(images, ids.start, ids.stop)

    return load_ahead(load, range(first * batch_size, len(images), step * batch_size))
