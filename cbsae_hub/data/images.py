"""Image datasets: image folders, Parquet, tars or what `save_to_disk` wrote, local or on the Hub, never code."""

import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, metadata_load, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import httpx
from PIL import Image
from yaml import YAMLError

from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.collected import STREAMED, Record
from cbsae_hub.data.image_files import TABLE, TAR, Layout, NoImages, arrange, list_folder, visible
from cbsae_hub.data.saved import load_saved
from cbsae_hub.data.tars import Tars, unfold
from cbsae_hub.hub.files import content_revision, resolve_id
from cbsae_hub.lazy import needed
from cbsae_hub.pictures import ImageDataset, to_rgb
from cbsae_hub.version import __version__
from cbsae_hub.words import some

with needed("datasets", "reading an image dataset"):
    import datasets
    import pyarrow.parquet
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

    The ``configs`` in the YAML header of its README.md say what its splits are. Without them, folders, Parquet files or
    tars that are all named after splits are splits, folders of images are classes (column ``label``), and
    ``metadata.csv``, ``.jsonl`` or ``.parquet`` beside images gives their columns; everything is the split "train"
    unless there are several. Pictures that are left out are named in a warning.

    Args:
        source: A folder of images, Parquet files or WebDataset tars, or one that ``save_to_disk`` of `datasets` wrote;
            one Parquet file or tar; the folder of a collection, see
            :func:`cbsae_hub.data.collection.collect_images`; or a Hub id.
        split: Name of the split, or several joined by "+", one after the other.
        revision: Branch, tag or commit of a Hub dataset.
        beside: A model folder next to which the dataset may lie, see :func:`cbsae_hub.models.resolve_id`.

    Returns:
        A dataset with at least the column ``image``, read from disk as needed. The only column of images is ``image``,
        whatever it was called. Of a tar, ``cls`` is the column ``label``, ``txt`` is ``caption``, and ``json`` is a
        column of each of its keys.

    Raises:
        ValueError: If there is no such split (the existing ones are named), no column of images or several and none of
            them is ``image``, the files are damaged, or of none of these kinds.
        OSError: If there is no such dataset, the Hub cannot be reached, or the cache cannot be written.
    """
    place = resolve_id(str(source), beside)
    if record := Record.open(place):
        return _open_collection(Path(place), record, split)
    return open_images(find_images(source, revision, beside), split, source)


def open_images(files: "ImageFiles", split: str, source: str | Path) -> datasets.Dataset:
    """Opens one split of the files of an image dataset; see :func:`load_images`."""
    layout, parts = files.layout, files.parts(split)
    if layout.left_out:
        text = "%s: %d files are in no split and are left out: %s"
        logger.warning(text, source, len(layout.left_out), some(layout.left_out))
    try:
        dataset = unfold(files.read(split))
    except (datasets.exceptions.DatasetsError, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetsError) else None
        if isinstance(cause, OSError) and cause.errno is not None:  # a full disk is no damaged file
            raise cause from None
        raise ValueError(f"{source} cannot be read: {files.damaged()}{cause or error}") from error
    dataset = _with_images(source, dataset)
    _compare(source, layout, parts, dataset)
    return dataset


def _open_collection(folder: Path, record: Record, split: str) -> datasets.Dataset:
    """The readable pictures of a collection: the rows that were there when it was made."""
    settings = record.settings
    if not record.is_complete:
        raise ValueError(f"the pictures of {folder} have not all been read yet: run again what began it")
    if split != settings["split"]:
        raise ValueError(f"{folder} has no split {split!r}; it has {settings['split']}")
    source, revision = settings["source"], settings["revision"]
    if settings["streaming"]:
        source, split, revision = folder / STREAMED, "train", None
    files = find_images(source, revision, strict=False)
    if not settings["streaming"] and files.state(split) != settings["state"]:
        raise ValueError(
            f"the files of {source} have changed since they were read into {folder}: run again what read them"
        )
    images = open_images(files, split, source)
    return images if len(record.readable) == len(images) else images.select(record.readable)


def commit_of_images(source: str | Path, revision: str | None = None) -> str | None:
    """The commit that a revision of a Hub dataset stands for now; None for a folder."""
    return None if Path(source).exists() else find_images(source, revision).commit


@dataclass
class ImageFiles:
    """The files of an image dataset."""

    source: str  # what it is called: an existing path, or a Hub id
    root: str  # a folder, or the address of a commit on the Hub: what the paths of the layout begin with
    commit: str | None
    layout: Layout
    card: dict[str, Any]  # the YAML header of the README.md

    def parts(self, split: str) -> list[str]:
        """The splits that are joined by "+".

        Raises:
            ValueError: If there is no such split; names those that there are.
        """
        parts = split.split("+")
        for part in parts:
            if part not in self.layout.splits:
                raise ValueError(f"{self.source} has no split {part!r}; it has {', '.join(self.layout.splits)}")
        return parts

    def state(self, split: str) -> str:
        """The commit, or a fingerprint of the names, sizes and times of all files: it changes when pictures do."""
        files = sorted({file for part in self.parts(split) for file in self.layout.splits[part]})
        if self.commit is not None:
            return self.commit
        return content_revision(json.dumps([(file, *_stamp(f"{self.root}/{file}")) for file in files]))

    def read(self, split: str) -> datasets.Dataset:
        """The rows of a split, written to the cache of `datasets`."""
        if self.layout.kind == "saved":
            root = (
                self.root
                if self.commit is None
                else snapshot_download(self.source, repo_type="dataset", revision=self.commit)
            )
            return datasets.concatenate_datasets([load_saved(root, part) for part in self.parts(split)])
        builder = self.builder()
        builder.download_and_prepare()
        return builder.as_dataset(split)

    def stream(self, split: str) -> datasets.IterableDataset:
        """The rows of a split, one after the other, pictures as they are in their files."""
        if self.layout.kind == "saved":
            return self.read(split).to_iterable_dataset().decode(False)
        return self.builder().as_streaming_dataset(split).decode(False)

    def damaged(self) -> str:
        """Names the first Parquet file that cannot be read, for an error: `datasets` does not say which it was."""
        if self.layout.kind != "parquet" or self.commit is not None:
            return ""
        for file in sorted(set().union(*self.layout.splits.values())):
            try:
                for _ in pyarrow.parquet.ParquetFile(f"{self.root}/{file}").iter_batches():
                    pass
            except (pyarrow.ArrowException, OSError):
                return f"{file} is damaged: "
        return ""

    def builder(self) -> datasets.DatasetBuilder:
        """The builder of `datasets` that reads these files; it takes no name among them for a pattern."""
        splits = {split: self._list(files) for split, files in self.layout.splits.items()}
        infos = DatasetInfosDict.from_dataset_card_data(self.card)
        info = infos.get(self.layout.config) or (next(iter(infos.values())) if len(infos) == 1 else None)
        features = info.features if info is not None and self.layout.kind == "parquet" else None
        if self.layout.kind == "webdataset":
            return Tars(data_files=DataFilesDict(splits), hash=__version__)
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
        if varying := [path for path in paths if os.path.expandvars(path) != path]:
            raise ValueError(f"`datasets` takes a part of {varying[0]} for a variable of the shell: rename it")
        if foreign := [path for path in paths if not _is_unicode(path)]:
            raise ValueError(f"the name of the file {foreign[0]!r} is no UTF-8: rename it")
        if self.commit is not None:
            return DataFilesList(paths, [(self.root, self.commit)] * len(paths))
        return DataFilesList(paths, [_stamp(path) for path in paths])


def _stamp(path: str) -> tuple[str, str]:
    stat = os.stat(path)
    return str(stat.st_mtime_ns), str(stat.st_size)


def _is_unicode(path: str) -> bool:
    return path.encode(errors="replace").decode() == path


def find_images(
    source: str | Path, revision: str | None = None, beside: str | Path | None = None, strict: bool = True
) -> ImageFiles:
    """The files of an image dataset, and its splits.

    Arguments and errors are those of :func:`load_images`; for ``strict`` see
    :func:`cbsae_hub.data.image_files.list_folder`.
    """
    place = resolve_id(str(source), beside)
    folder, card = Path(place), None
    if folder.is_dir():
        root, commit, files = str(folder.resolve()), None, list_folder(folder, strict)
        card = folder / CARD
    elif folder.is_file() and folder.suffix.lower() in (TABLE, TAR):
        root, commit, files = str(folder.resolve().parent), None, [folder.resolve().name]
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
        return ImageFiles(
            str(folder.resolve()) if commit is None else place, root, commit, arrange(files, header), header
        )
    except (NoImages, ValueError, YAMLError) as error:
        kind = FileNotFoundError if not files else ValueError
        raise kind(f"no image dataset at {str(source)!r}: {error}") from error


def _with_images(source: str | Path, dataset: datasets.Dataset) -> datasets.Dataset:
    """Makes ``image`` the column of images: the one that is called so, else the only one.

    Columns that hold files count, as bytes or as the records that pandas writes: under other names, if PIL opens one.
    """
    kinds = dataset.features
    name = "image"
    if not (isinstance(kinds.get(name), datasets.Image) or _holds_files(kinds.get(name))):
        columns = [
            column
            for column, kind in kinds.items()
            if isinstance(kind, datasets.Image) or (_holds_files(kind) and _is_picture(dataset, column))
        ]
        if len(columns) != 1:
            listed = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in kinds.items())
            several = f", but {' and '.join(columns)}: rename one of them to image" if columns else ""
            raise ValueError(f"{source} has no column 'image' of images{several}; it has {listed}")
        [name] = columns
        logger.info("%s: its column of images, %r, is taken as 'image'", source, name)
        if "image" in kinds:
            logger.info("%s: its column 'image' holds no images and is left out", source)
            dataset = dataset.remove_columns("image")
        dataset = dataset.rename_column(name, "image")
    return dataset if dataset.features["image"] == datasets.Image() else dataset.cast_column("image", datasets.Image())


def _holds_files(kind: Any) -> bool:
    content = kind.get("bytes") if isinstance(kind, dict) else kind
    return isinstance(content, datasets.Value) and content.dtype in ("binary", "large_binary")


def _is_picture(dataset: datasets.Dataset, column: str) -> bool:
    """Whether PIL opens the first file of a column."""
    values = (value.as_py() for chunk in dataset.data.column(column).chunks for value in chunk)
    files = (value.get("bytes") if isinstance(value, dict) else value for value in values)
    try:
        with Image.open(io.BytesIO(next(file for file in files if file))):
            return True
    except Exception:  # PIL raises a dozen types for files that are no images; StopIteration for an empty column
        return False


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
