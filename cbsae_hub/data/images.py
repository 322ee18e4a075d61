"""Image datasets: Parquet or image folders, local or on the Hub, never code."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx
from PIL import Image
from yaml import YAMLError

from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.image_files import Layout, NoImages, arrange, list_folder, visible
from cbsae_hub.lazy import needed
from cbsae_hub.models import resolve_id
from cbsae_hub.pictures import ImageDataset, to_rgb
from cbsae_hub.words import some

with needed("datasets", "reading an image dataset"):
    import datasets
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.info import DatasetInfosDict
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

CARD = "README.md"
BUILDERS = {"imagefolder": ImageFolder, "parquet": Parquet}
logger = logging.getLogger(__name__)


def load_images(
    source: str | Path, split: str, revision: str | None = None, beside: str | Path | None = None
) -> datasets.Dataset:
    """Opens one split of an image dataset.

    The ``configs`` in the YAML header of its README.md say what its splits are. Without them, folders or Parquet files
    that are all named after splits are splits, folders of images are classes (column ``label``), and
    ``metadata.csv``, ``.jsonl`` or ``.parquet`` beside images gives their columns; everything is the split "train"
    unless there are several. Pictures that are left out are named in a warning.

    Args:
        source: A folder of Parquet files or images, or a Hub id.
        split: Name of the split, or several joined by "+", one after the other.
        revision: Branch, tag or commit of a Hub dataset.
        beside: A model folder next to which the dataset may lie, see :func:`cbsae_hub.models.resolve_id`.

    Returns:
        A dataset with at least the column ``image``, read from disk as needed.

    Raises:
        ValueError: If there is no such split (the existing ones are named), no column ``image``, the files are
            damaged, or neither Parquet nor images.
        OSError: If there is no such dataset, the Hub cannot be reached, or the cache cannot be written.
    """
    files = _find(source, revision, beside)
    layout, parts = files.layout, split.split("+")
    for part in parts:
        if part not in layout.splits:
            raise ValueError(f"{source} has no split {part!r}; it has {', '.join(layout.splits)}")
    if layout.left_out:
        text = "%s: %d files are in no split and are left out: %s"
        logger.warning(text, source, len(layout.left_out), some(layout.left_out))
    try:
        builder = files.builder()
        builder.download_and_prepare()
        dataset = builder.as_dataset(split)
    except (datasets.exceptions.DatasetsError, ValueError, TypeError) as error:
        if isinstance(cause := error.__cause__, OSError) and cause.errno is not None:  # a full disk is no damaged file
            raise cause from None
        raise ValueError(f"{source} cannot be read: {error.__cause__ or error}") from error
    dataset = _with_images(dataset)
    if not isinstance(dataset.features.get("image"), datasets.Image):
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in dataset.features.items())
        raise ValueError(f"{source} has no column 'image' of images; it has {columns}")
    _compare(source, layout, parts, dataset)
    return dataset


def commit_of_images(source: str | Path, revision: str | None = None) -> str | None:
    """The commit that a revision of a Hub dataset stands for now; None for a folder."""
    return None if Path(source).is_dir() else _find(source, revision).commit


@dataclass
class _Files:
    """The files of a dataset."""

    root: str  # a folder, or the address of a commit on the Hub: what the paths of the layout begin with
    commit: str | None
    layout: Layout
    card: dict[str, Any]  # the YAML header of the README.md

    def builder(self) -> datasets.DatasetBuilder:
        """The builder of `datasets` that reads these files; it takes no name among them for a pattern."""
        splits = {split: self._list(files) for split, files in self.layout.splits.items()}
        infos = DatasetInfosDict.from_dataset_card_data(self.card)
        info = infos.get(self.layout.config) or (next(iter(infos.values())) if len(infos) == 1 else None)
        features = info.features if info is not None and self.layout.kind == "parquet" else None
        config = BUILDERS[self.layout.kind].BUILDER_CONFIG_CLASS
        options = {key: value for key, value in self.layout.options.items() if hasattr(config, key)}
        if unknown := [key for key in self.layout.options if key not in options]:
            logger.warning("README.md says something that is not understood: %s", ", ".join(unknown))
        return datasets.load_dataset_builder(
            self.layout.kind, data_files=DataFilesDict(splits), **{"features": features, **options}
        )

    def _list(self, files: list[str]) -> DataFilesList:
        """Their addresses, with what changes when a file does: else the cache would keep the old ones."""
        paths = [f"{self.root}/{file}" for file in files]
        if chained := [path for path in paths if "::" in path]:
            raise ValueError(f"`datasets` takes {chained[0]} for a file in an archive, as it has '::' in it: rename it")
        if self.commit is not None:
            return DataFilesList(paths, [(self.root, self.commit)] * len(paths))
        stats = [os.stat(path) for path in paths]
        return DataFilesList(paths, [(str(stat.st_mtime_ns), str(stat.st_size)) for stat in stats])


def _find(source: str | Path, revision: str | None = None, beside: str | Path | None = None) -> _Files:
    place = resolve_id(str(source), beside)
    folder, card = Path(place), None
    if folder.is_dir():
        root, commit, files = str(folder.resolve()), None, list_folder(folder)
        card = folder / CARD
    elif folder.exists() or place.count("/") != 1 or place.startswith((".", "/")):
        raise FileNotFoundError(f"no image dataset at {str(source)!r}: give an existing folder or a Hub id, owner/name")
    else:
        try:
            api = HfApi()
            commit = api.dataset_info(place, revision=revision).sha
            files = visible(api.list_repo_files(place, repo_type="dataset", revision=commit))
            if CARD in files:
                card = Path(hf_hub_download(place, CARD, repo_type="dataset", revision=commit))
        except (HfHubHTTPError, HFValidationError, httpx.HTTPError, ConnectionError) as error:
            raise FileNotFoundError(f"no image dataset at {str(source)!r}: {error}") from error
        root = f"hf://datasets/{place}@{commit}"
    try:
        header = metadata_load(card) or {} if card is not None and card.is_file() else {}
        return _Files(root, commit, arrange(files, header), header)
    except (NoImages, ValueError, YAMLError) as error:
        kind = FileNotFoundError if not files else ValueError
        raise kind(f"no image dataset at {str(source)!r}: {error}") from error


def _with_images(dataset: datasets.Dataset) -> datasets.Dataset:
    """Makes images of the column ``image`` where it holds files: bytes, or records of them as pandas writes."""
    kind = dataset.features.get("image")
    content = kind.get("bytes") if isinstance(kind, dict) else kind
    if isinstance(content, datasets.Value) and content.dtype in ("binary", "large_binary"):
        return dataset.cast_column("image", datasets.Image())
    return dataset


def _compare(source: str | Path, layout: Layout, parts: list[str], dataset: datasets.Dataset) -> None:
    """Names the images of a folder that were not read: those that its metadata does not list."""
    images = [file for part in parts for file in layout.images(part)]
    if not any(map(layout.has_metadata, parts)):
        if images and len(images) != len(dataset):
            raise ValueError(f"{source}: {len(dataset)} rows were read of {len(images)} pictures")
        return
    depths = {len(PurePath(file).parts) for file in images}
    stored = dataset.cast_column("image", datasets.Image(decode=False))["image"]
    paths = [PurePath((file and file["path"]) or "").parts for file in stored]
    read = {"/".join(path[-depth:]) for path in paths for depth in depths}
    if missing := [file for file in images if file not in read]:
        text = "%s: %d pictures are left out, the metadata do not list them: %s"
        logger.warning(text, source, len(missing), some(missing))


def read_images(images: ImageDataset, start: int, stop: int) -> list[Image.Image]:
    """Rows ``start`` to ``stop`` of a map-style dataset with a column ``image``, as every model sees them (RGB).

    Raises:
        ValueError: If one is missing, cannot be decoded or cannot be shown as RGB; names its row. None is skipped, so
            that rows keep their numbers.
    """
    try:
        batch = images[start:stop]["image"]
        if any(image is None for image in batch):
            raise ValueError("a picture is missing")
        return [to_rgb(image) for image in batch]
    except Exception:  # PIL raises a dozen types, SyntaxError among them, for files that are no images
        for row in range(start, stop):
            try:
                image = images[row : row + 1]["image"][0]
                if image is not None:
                    to_rgb(image)
                    continue
            except Exception as error:
                raise ValueError(f"image {row}{_file_of(images, row)} cannot be read: {error}") from error
            raise ValueError(f"image {row} is missing: the dataset has no picture in that row") from None
        raise


def _file_of(images: ImageDataset, row: int) -> str:
    """The file name of a picture, if its dataset knows it."""
    if not isinstance(images, datasets.Dataset) or "image" not in images.features:
        return ""
    path = images.cast_column("image", datasets.Image(decode=False))[row]["image"]["path"]
    return f" ({path})" if path else ""


def image_batches(
    images: ImageDataset, batch_size: int, first: int = 0, step: int = 1
) -> Iterator[tuple[range, list[Image.Image]]]:
    """The rows of a dataset in order: ids and PIL images, ``batch_size`` at a time, the next ones decoded ahead.

    One process of several takes every ``step``-th batch from the ``first`` on.
    """

    def load(start: int) -> tuple[range, list[Image.Image]]:
        ids = range(start, min(start + batch_size, len(images)))
        return ids, read_images(images, ids.start, ids.stop)

    return load_ahead(load, range(first * batch_size, len(images), step * batch_size))
