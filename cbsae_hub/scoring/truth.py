"""Labels of probe images, by kind, with which neurons are compared."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbsae_hub.data.labels import class_names, words_in
from cbsae_hub.metrics.ground_truth import label_matrix
from cbsae_hub.pictures import ImageDataset

logger = logging.getLogger(__name__)

# Of thousands of neurons some fires on any few images and on hardly anything else: rarer labels prove nothing.
MIN_IMAGES = 10


@dataclass
class Truth:
    """Labels of the images.

    Attributes:
        families: Name of a kind of label ("concept", "background", ...) to the column that holds it: ``background`` (a
            name, a list of names, or a number; a ``ClassLabel`` goes by the first of its names; None and "" are no
            label), ``objects.name`` (names in a list of records), or ``written_word?`` (whether there is one; False
            is none).
        labels: The (family, name) of each column of ``matrix``.
        matrix: ``[images, labels]`` bool.
        too_rare: Number of labels of each family that are left out because too few images have them.
    """

    families: dict[str, str]
    labels: list[tuple[str, str]]
    matrix: np.ndarray
    too_rare: dict[str, int]

    @classmethod
    def read(cls, images: ImageDataset, families: Mapping[str, str], min_images: int = MIN_IMAGES) -> "Truth":
        """Reads the labels of a dataset; those on fewer images are left out, with a warning if none remains.

        Raises:
            ValueError: If the dataset lacks a column, its records lack a field, or no field of them is named.
        """
        labels, blocks, too_rare = [], [np.zeros((len(images), 0), dtype=bool)], {}
        for family, column in families.items():
            matrix, names = label_matrix(label_sets(images, column))
            frequent = np.flatnonzero(matrix.sum(0) >= min_images)
            if not len(frequent):
                logger.warning("%s: neurons are not compared with any", _lack_of_labels(column, matrix, min_images))
            labels += [(family, names[i]) for i in frequent]
            blocks.append(matrix[:, frequent])
            too_rare[family] = len(names) - len(frequent)
        return cls(dict(families), labels, np.concatenate(blocks, 1), too_rare)

    def columns(self, family: str) -> np.ndarray:
        """Numbers of the matrix's columns that hold a family's labels."""
        return np.array([i for i, (kind, _) in enumerate(self.labels) if kind == family], dtype=int)

    def classes(self) -> tuple[list[str], np.ndarray]:
        """Names of the first family's labels, and each image's only one: -1 if it has none or several."""
        columns = self.columns(next(iter(self.families), ""))
        own = self.matrix[:, columns]
        which = (own * np.arange(len(columns))).sum(1)
        return [self.labels[i][1] for i in columns], np.where(own.sum(1) == 1, which, -1)


def _lack_of_labels(column: str, matrix: np.ndarray, min_images: int) -> str:
    if not matrix.shape[1]:
        return f"the column {column!r} has no labels"
    most = matrix.sum(0).max()
    return f"no label of the column {column!r} is on {min_images} images or more (the most frequent one is on {most})"


def label_sets(images: ImageDataset, column: str) -> list[set[str]]:
    """The labels of each image in a column, see :class:`Truth`, whose errors are these."""
    path = column.removesuffix("?")
    name, _, record_field = path.partition(".")
    try:
        values = images[name]
    except (KeyError, ValueError) as error:
        columns = ", ".join(getattr(images, "column_names", ()))
        raise ValueError(f"the images have no column {name!r}" + (columns and f"; they have {columns}")) from error
    if record_field:
        try:
            values = [_field(value, record_field) for value in values]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the column {name!r} of the images has no records with {record_field!r}") from error
    classes = class_names(images, name, record_field)
    if column.endswith("?"):
        return [{path} if _is_label(value, classes) else set() for value in values]
    if classes is not None:
        short = [one.partition(",")[0] for one in classes]  # "tench, Tinca tinca"
        # ImageNet has two cranes: a name that comes twice stands whole.
        classes = [whole if short.count(one) > 1 else one for one, whole in zip(short, classes)]
    try:
        return [set(words_in(value, classes)) for value in values]
    except ValueError as error:
        raise ValueError(f"the column {name!r} of the images has no labels: {error}; name one, {name}.FIELD") from error


def _field(value: Any, field: str) -> Any:
    """A field of a record, or of each record of a list; also of one record of lists, as `datasets` reads them."""
    if value is None:
        return None
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_field(item, field) for item in value]
    return value[field]


def _is_label(value: Any, classes: Sequence[str] | None) -> bool:
    if isinstance(value, (list, tuple, np.ndarray)):
        return any(_is_label(item, classes) for item in value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return isinstance(value, Mapping) or bool(words_in(value, classes))
