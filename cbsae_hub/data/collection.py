"""Every picture of a source is read once; those that cannot be read are listed and left out."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError
from tqdm import tqdm

from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.collected import RECORD, STREAMED, Record, Unreadable
from cbsae_hub.data.images import ImageFiles, find_images, load_images, open_images
from cbsae_hub.data.labels import find_captions, find_labels
from cbsae_hub.hub.files import plain, replace_file, resolve_id
from cbsae_hub.lazy import needed
from cbsae_hub.pictures import to_rgb

with needed("datasets", "reading an image dataset"):
    import datasets
    import pyarrow.parquet
    from datasets.table import embed_table_storage

logger = logging.getLogger(__name__)

UNREADABLE = "unreadable.csv"
PICTURES_A_TASK = 32
PICTURES_A_RECORD = 2048  # after so many, a run that is killed does not read them again
PICTURES_A_SHARD = 512
BUFFER = 2048  # pictures of a stream among which the next one is drawn


@dataclass(frozen=True)
class Collection:
    """Pictures that can all be read.

    Attributes:
        images: Map-style dataset with the column ``image``.
        source: Where they are from, for manifests: id, split, revision, and the rows that are left out.
        unreadable: What is left out.
        labels: Columns that are labels, see :func:`cbsae_hub.data.labels.find_labels`.
        captions: Column that says in words what a picture shows, if there is one.
    """

    images: datasets.Dataset
    source: dict[str, Any]
    unreadable: tuple[Unreadable, ...]
    labels: tuple[str, ...]
    captions: str | None


def collect_images(
    source: str | Path,
    folder: str | Path,
    *,
    split: str | None = None,
    revision: str | None = None,
    beside: str | Path | None = None,
    strict: bool = False,
    max_images: int | None = None,
    streaming: bool = False,
    seed: int = 0,
) -> Collection:
    """Reads every picture of a source once, and opens those that can be read.

    The result is remembered in ``folder/collection.json``: the same call opens it without reading, also where another
    one was killed, and reads again if files or arguments have changed. ``load_images(folder, split)`` opens it, too.
    ``folder/unreadable.csv`` lists what is left out, if anything is. Of several processes, the first calls this alone,
    and the others once it has returned.

    Args:
        source: See :func:`cbsae_hub.data.images.load_images`.
        folder: Where the result is remembered.
        split: Split, or several joined by "+". None for the only one, else "train", else all of them.
        revision: Branch, tag or commit of a Hub dataset.
        beside: A model folder next to which the dataset may lie.
        strict: Whether a picture that cannot be read is an error.
        max_images: Draws so many pictures at random; they stay in order.
        streaming: Takes ``max_images`` pictures from the beginning of the source, shuffled in a buffer, and copies
            their files into ``folder``; for what is too large to be downloaded.
        seed: Seed of the draw.

    Raises:
        ValueError: If fewer than 2 pictures can be read, or with ``strict`` not all of them; if the folder lies in the
            source; or as :func:`cbsae_hub.data.images.load_images`.
        OSError: As :func:`cbsae_hub.data.images.load_images`.
    """
    if max_images is not None and max_images < 2:
        raise ValueError(f"max_images must be at least 2, got {max_images}")
    if streaming and max_images is None:
        raise ValueError("streaming needs max_images: how many pictures to take")
    folder = Path(folder)
    files = _find(source, folder, revision, beside, strict)
    split = split or _default_split(source, list(files.layout.splits))
    settings = plain(
        {
            "source": files.source,
            "split": split,
            "revision": files.commit,
            "state": files.state(split),
            "max_images": max_images,
            "streaming": streaming,
            "seed": None if max_images is None else seed,
        }
    )
    record = _begin(folder, settings)
    if streaming and max_images is not None and record.rows is None:
        record.rows = _stream(files, split, folder / STREAMED, max_images, seed)
        record.write(folder)
    images = load_images(folder / STREAMED, "train") if streaming else open_images(files, split, files.source)
    if record.rows is None:
        record.rows = len(images)
        if max_images is not None and max_images < record.rows:
            rows = np.random.default_rng(seed).choice(record.rows, max_images, replace=False)
            record.chosen = np.sort(rows).tolist()
    if not record.is_complete:
        _read(images, record, folder, files)
    return _collection(str(source), images, record, folder, strict)


def require_outside(source: str | Path, folder: Path) -> None:
    """Raises a ValueError if a folder lies in a folder of pictures."""
    if Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"the folder {folder} lies in {source}, and its files would count as pictures: choose another")


def _find(
    source: str | Path, folder: Path, revision: str | None, beside: str | Path | None, strict: bool
) -> ImageFiles:
    place = resolve_id(str(source), beside)
    if record := Record.open(place):
        raise ValueError(f"{source} is a collection of {record.settings['source']}: give that one")
    require_outside(place, folder)
    return find_images(source, revision, beside, strict)


def _default_split(source: str | Path, splits: list[str]) -> str:
    if len(splits) == 1:
        return splits[0]
    split = "train" if "train" in splits else "+".join(splits)
    logger.info("%s has the splits %s: the pictures of %s are taken", source, ", ".join(splits), split)
    return split


def _begin(folder: Path, settings: Mapping[str, Any]) -> Record:
    """The record that an earlier run with the same settings left, else a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".{RECORD}.*.tmp"):  # of a run that was killed
        leftover.unlink()
    record = Record.open(folder)
    if record and record.settings == settings:
        return record
    if record:
        names = ", ".join(name for name in settings if record.settings.get(name) != settings[name])
        logger.info("%s: what its pictures depend on has changed (%s): they are read again", folder, names)
    for shard in (folder / STREAMED).glob("*.parquet"):
        if record is None:
            raise ValueError(f"{shard} is of something else than an earlier run: choose another folder")
        shard.unlink()
    record = Record(settings)
    record.write(folder)
    return record


# ------------------------------------------------------------------------------------------------------------- streams


def _stream(files: ImageFiles, split: str, folder: Path, count: int, seed: int) -> int:
    """Copies the first ``count`` pictures of a shuffled stream, with their columns; says how many there are.

    Shards that an earlier run wrote are skipped: the same seed gives the same order.
    """
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    written = sum(pyarrow.parquet.read_metadata(shard).num_rows for shard in folder.glob("*.parquet"))
    rows = files.stream(split).shuffle(seed=seed, buffer_size=BUFFER).skip(written).take(count - written)
    schema = rows.features.arrow_schema
    try:
        with tqdm(total=count, initial=written, desc="download", unit="image") as progress:
            for table in rows.with_format("arrow").iter(batch_size=PICTURES_A_SHARD):
                table = embed_table_storage(table.cast(schema))
                with replace_file(folder / f"{written // PICTURES_A_SHARD:05d}.parquet") as temporary:
                    pyarrow.parquet.write_table(table, temporary)
                written += len(table)
                progress.update(len(table))
    except (datasets.exceptions.DatasetsError, pyarrow.ArrowException) as error:
        raise ValueError(f"{files.source} cannot be read: {files.damaged()}{error}") from error
    if written < count:
        logger.info("%s has %d pictures only, not %d", files.source, written, count)
    return written


# ------------------------------------------------------------------------------------------------------------- reading


def _read(images: datasets.Dataset, record: Record, folder: Path, files: ImageFiles) -> None:
    """Reads the pictures that have not been read, and records which of them cannot be."""
    feature, rows = images.features["image"], record.candidates
    pictures = images.select_columns("image").cast_column("image", datasets.Image(decode=False))
    begun, copies = record.read, Counter[int]()

    def check(start: int) -> list[tuple[int, str, str | None, int | None]]:
        part = list(rows[start : start + PICTURES_A_TASK])
        cells = pictures[part]["image"]
        return [(row, _name(cell, files), *_check(feature, cell)) for row, cell in zip(part, cells, strict=True)]

    starts = range(begun, len(rows), PICTURES_A_TASK)
    with tqdm(total=len(rows), initial=begun, desc="read", unit="image") as progress:
        for checked in load_ahead(check, starts, threads=min(os.cpu_count() or 1, 16)):
            for row, file, reason, content in checked:
                if reason is not None:
                    record.unreadable.append(Unreadable(row, file, reason))
                elif content is not None:
                    copies[content] += 1
            record.read += len(checked)
            progress.update(len(checked))
            if not record.read % PICTURES_A_RECORD:
                record.write(folder)
    _write_unreadable(folder / UNREADABLE, record.unreadable)
    record.write(folder)
    if not begun and (same := copies.total() - len(copies)):
        logger.info("%d pictures are copies of others, to the byte; they stay", same)


def _name(cell: Mapping[str, Any] | None, files: ImageFiles) -> str:
    """The file of a picture, from the folder that holds it all."""
    path = (cell or {}).get("path") or ""
    return path.removeprefix(f"{files.root}/") if files.commit is None else path.rpartition(f"/{files.commit}/")[2]


def _check(feature: datasets.Image, cell: Mapping[str, Any] | None) -> tuple[str | None, int | None]:
    """Why a picture cannot be read, None if it can; and a hash of its file, None if it is in an archive."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return "it is missing", None
    try:
        content = cell["bytes"]
        if content is None and os.path.isfile(cell["path"]):
            content = Path(cell["path"]).read_bytes()
        if content == b"":
            return "the file is empty", None
        to_rgb(feature.decode_example({**cell, "bytes": content}))
        return None, None if content is None else hash(content)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return "the file is no picture of a known kind, or its beginning is damaged", None
    except Exception as error:  # PIL raises a dozen types, SyntaxError among them, for files that are no images
        return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip("."), None


def _write_unreadable(path: Path, unreadable: list[Unreadable]) -> None:
    path.unlink(missing_ok=True)
    if not unreadable:
        return
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "row", "reason"))
        writer.writerows((picture.file, picture.row, picture.reason) for picture in unreadable)


# -------------------------------------------------------------------------------------------------------------- result


def _collection(name: str, images: datasets.Dataset, record: Record, folder: Path, strict: bool) -> Collection:
    """The readable pictures of a source that was read."""
    settings, left_out, readable = record.settings, record.unreadable, record.readable
    if left_out:
        first = "; ".join(f"{picture.file or f'row {picture.row}'}: {picture.reason}" for picture in left_out[:3])
        first += f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        sentence = (
            f"{len(left_out)} of {len(record.candidates)} pictures of {name} cannot be read ({first}); "
            f"{folder / UNREADABLE} lists them"
        )
        if strict or len(readable) < 2:
            raise ValueError(sentence)
        logger.warning("%s: they are left out", sentence)
    if len(readable) < 2:
        raise ValueError(f"{name} has {len(readable)} pictures in {settings['split']}: at least 2 are needed")
    if len(readable) < len(images):
        images = images.select(readable)
    source = {
        "id": name,
        "split": settings["split"],
        "revision": settings["revision"],
        "rows_left_out": [picture.row for picture in left_out],
    }
    if settings["max_images"] is not None:
        source |= {name: settings[name] for name in ("max_images", "streaming", "seed")}
    captions = find_captions(images)
    return Collection(images, source, tuple(left_out), find_labels(images, besides=captions), captions)
