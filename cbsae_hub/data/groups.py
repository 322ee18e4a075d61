"""Images by class and by an attribute that goes along with the class: landbirds and waterbirds, on land and water."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cbsae_hub.data.images import datasets, load_images
from cbsae_hub.data.labels import class_names, words_in
from cbsae_hub.hub.files import resolve_id
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.words import some

READ_TABLE = {".csv": pd.read_csv, ".parquet": pd.read_parquet}


@dataclass(frozen=True)
class GroupedImages:
    """Images, their classes, and who of them has the attribute.

    Attributes:
        images: Map-style dataset with a column ``image``.
        attribute: ``[images]`` bool: which of them have the attribute.
        targets: ``[images]`` int64: their classes; all 0 if there are none.
        classes: Names of the classes.
    """

    images: ImageDataset
    attribute: Tensor
    targets: Tensor
    classes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Number of images of each group, by its name; see :func:`group_names`."""
        groups = 2 * self.targets + self.attribute.long()
        counts = torch.bincount(groups, minlength=2 * len(self.classes)).tolist()
        return dict(zip(group_names(self.classes), counts))

    def require_all(self, where: str) -> None:
        """Raises a ValueError that names a group without images, and the images by ``where``."""
        counts = self.counts()
        if missing := [name for name, images in counts.items() if not images]:
            present = ", ".join(f"{name}: {images}" for name, images in counts.items() if images)
            raise ValueError(
                f"{where} has no image of {some(missing)} ({present}): an accuracy of each group needs images of each"
            )


def group_names(classes: Sequence[str]) -> list[str]:
    """Names of the groups: each class without the attribute, then with it."""
    return [f"{name}, {side} attribute" for name in classes for side in ("without", "with")]


def group_images(
    images: ImageDataset,
    attribute: tuple[str, Sequence[Any]],
    target: tuple[str, Mapping[str, Sequence[Any]]] | None = None,
    where: str = "the dataset",
) -> GroupedImages:
    """Reads from its columns which images of a dataset have an attribute, and of which class they are.

    Values are compared as texts: 1, 1.0 and "1" are the same; of a column of classes, the names. An image whose cell
    is a list has all that is in it.

    Args:
        images: A dataset with columns, see :func:`cbsae_hub.data.images.load_images` and :func:`read_table`.
        attribute: The column of the attribute, and the values that mean that it is there.
        target: The column of the classes, and the values that mean each of them; without it, all images are of one.
        where: Description of the dataset, for errors.

    Raises:
        ValueError: If there is no such column, its values are never those, all images have the attribute or none, or an
            image is of no class or of several.
    """
    column, values = attribute
    cells = _cells(images, column, where)
    present = torch.tensor([bool(cell & _texts(values)) for cell in cells])
    _require_values(cells, values, column, where)
    if present.all():
        raise ValueError(
            f"all {len(cells)} images of {where} have the attribute, {column} = {some(sorted(_texts(values)))}: there "
            "is nothing to compare them with"
        )
    if target is None:
        return GroupedImages(images, present, torch.zeros(len(cells), dtype=torch.long), ("all images",))
    column, classes = target
    cells = _cells(images, column, where)
    for name in classes:
        _require_values(cells, classes[name], f"{column} (class {name!r})", where)
    targets = []
    for row, cell in enumerate(cells):
        hits = [number for number, of_class in enumerate(classes.values()) if cell & _texts(of_class)]
        if len(hits) != 1:
            raise ValueError(
                f"image {row} of {where} is of {'several classes' if hits else 'no class'}: its {column} is "
                f"{some(sorted(cell)) or 'empty'}"
            )
        targets += hits
    return GroupedImages(images, present, torch.tensor(targets), tuple(classes))


def read_split(
    source: str | Path,
    split: str,
    tables: Sequence[str] = (),
    file_column: str | None = None,
    split_column: str | None = None,
    revision: str | None = None,
    beside: str | Path | None = None,
) -> ImageDataset:
    """Opens a split of a dataset whose columns are labels.

    Args:
        source: See :func:`cbsae_hub.data.images.load_images`; with ``tables``, a folder of pictures.
        split: Name of the split, or its value in ``split_column``.
        tables: See :func:`read_table`; without any, the dataset has its columns itself.
        file_column: See :func:`read_table`.
        split_column: Column of the tables that says of which split a picture is.
        revision: Branch, tag or commit of a Hub dataset.
        beside: See :func:`cbsae_hub.data.images.load_images`.

    Raises:
        ValueError: If there is no such split or column, or a table cannot be read.
        OSError: If something is missing.
    """
    if not tables:
        return load_images(source, split, revision, beside)
    if file_column is None or split_column is None:
        raise ValueError(
            "tables need file_column and split_column: which picture a row is of, and of which split it is"
        )
    frame = read_table(resolve_id(str(source), beside), tables, file_column)
    cells = [set(words_in(cell)) for cell in _column(frame, split_column, some(list(tables)))]
    _require_values(cells, [split], split_column, some(list(tables)))
    part = frame[[split in cell for cell in cells]].reset_index(drop=True)
    if missing := [file for file in part["image"] if not Path(file).is_file()]:
        raise FileNotFoundError(f"{len(missing)} pictures of split {split} are not there: {some(missing)}")
    return datasets.Dataset.from_pandas(part, preserve_index=False).cast_column("image", datasets.Image())


def read_table(folder: str | Path, tables: Sequence[str], file_column: str) -> pd.DataFrame:
    """Reads tables of labels of pictures: CSV or Parquet, several joined by the column of the pictures' files.

    Args:
        folder: Folder of the pictures; ``file_column`` and ``tables`` are relative to it.
        tables: Files.
        file_column: The column that names the file of each picture.

    Returns:
        The columns of all tables, and ``image``, the paths of the pictures.

    Raises:
        ValueError: If a file is no such table or has no such column, or a picture is in one of them only, or twice.
        FileNotFoundError: If a table is not there.
    """
    folder, frame = Path(folder), None
    for name in tables:
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"there is no table {file}")
        if file.suffix.lower() not in READ_TABLE:
            raise ValueError(f"{file} is no table that can be read: take CSV (.csv) or Parquet (.parquet)")
        try:
            one = READ_TABLE[file.suffix.lower()](file)
        except (ValueError, OSError) as error:  # what pandas and pyarrow raise for damaged files is of these
            raise ValueError(f"{file} cannot be read: {error}") from error
        if (files := _column(one, file_column, str(file))).duplicated().any():
            raise ValueError(f"{file} has {files[files.duplicated()].iloc[0]} twice in {file_column}")
        if frame is not None and set(frame[file_column]) != set(files):
            raise ValueError(f"{file} is not about the same pictures as {tables[0]}: {file_column} differs")
        repeated = [] if frame is None else [column for column in one if column in frame and column != file_column]
        frame = one if frame is None else frame.merge(one.drop(columns=repeated), on=file_column)
    assert frame is not None  # callers give at least one
    return frame.assign(image=[str(folder / file) for file in frame[file_column].astype(str)])


def _column(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    if column not in frame:
        raise ValueError(f"{where} has no column {column!r}; it has {', '.join(map(str, frame))}")
    return frame[column]


def _cells(images: Any, column: str, where: str) -> list[set[str]]:
    """The texts in each cell of a column."""
    columns = images.column_names
    if column not in columns:
        raise ValueError(f"{where} has no column {column!r}; it has {', '.join(columns)}")
    classes = class_names(images, column)
    return [set(words_in(cell, classes)) for cell in images.select_columns(column)[:][column]]


def _texts(values: Sequence[Any]) -> set[str]:
    """Values of a recipe as the cells have them."""
    return set(words_in(list(values)))


def _require_values(cells: Sequence[set[str]], values: Sequence[Any], column: str, where: str) -> None:
    """Raises a ValueError if no cell has any of the values; names those that there are."""
    present = sorted(set().union(*cells))
    if not _texts(values) & set(present):
        raise ValueError(
            f"no image of {where} has {some(sorted(_texts(values)))} in {column}; its values are {some(present)}"
        )
