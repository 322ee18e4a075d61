"""Labels of probe images, by kind: what neurons can be held against where the truth is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel

from cbsae_hub.metrics.ground_truth import label_matrix

# Of thousands of neurons some fires on any few images and on hardly anything else: rarer labels prove nothing.
MIN_IMAGES = 10


@dataclass
class Truth:
    """What is known of the images.

    Attributes:
        families: Name of a kind of label ("concept", "background", ...) to the column that holds it: ``background`` (a
            name, or None; a ``ClassLabel`` goes by the first of its names), ``objects.name`` (names in a list of
            records), or ``written_word?`` (whether there is one).
        labels: The (family, name) of each column of ``matrix``.
        matrix: ``[images, labels]`` bool.
        too_rare: Of each family, how many labels were left out because too few images have them.
    """

    families: dict[str, str]
    labels: list[tuple[str, str]]
    matrix: np.ndarray
    too_rare: dict[str, int]

    @classmethod
    def read(cls, images: Any, families: Mapping[str, str], min_images: int = MIN_IMAGES) -> "Truth":
        """Reads the labels of a dataset; those on fewer images are left out.

        Raises:
            ValueError: If the dataset lacks a column, or its records lack a field.
        """
        labels, blocks, too_rare = [], [np.zeros((len(images), 0), dtype=bool)], {}
        for family, column in families.items():
            matrix, names = label_matrix(_label_sets(images, column))
            kept = np.flatnonzero(matrix.sum(0) >= min_images)
            labels += [(family, names[i]) for i in kept]
            blocks.append(matrix[:, kept])
            too_rare[family] = len(names) - len(kept)
        return cls(dict(families), labels, np.concatenate(blocks, 1), too_rare)

    def columns(self, family: str) -> np.ndarray:
        """Which columns of the matrix hold a family's labels."""
        return np.array([i for i, (kind, _) in enumerate(self.labels) if kind == family], dtype=int)

    def classes(self) -> tuple[list[str], np.ndarray]:
        """Names of the first family's labels, and each image's only one: -1 if it has none or several."""
        columns = self.columns(next(iter(self.families), ""))
        own = self.matrix[:, columns]
        which = (own * np.arange(len(columns))).sum(1)
        return [self.labels[i][1] for i in columns], np.where(own.sum(1) == 1, which, -1)


def _label_sets(images: Any, column: str) -> list[set[str]]:
    name, _, record_field = column.removesuffix("?").partition(".")
    try:
        values = images[name]
    except KeyError as error:
        raise ValueError(f"the images have no column {name!r}") from error
    if column.endswith("?"):
        return [set() if value is None else {name} for value in values]
    if record_field:
        try:
            return [{item[record_field] for item in row if item[record_field] is not None} for row in values]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the column {name!r} of the images has no records with {record_field!r}") from error
    if isinstance(kind := getattr(images, "features", {}).get(name), ClassLabel):
        names = [one.partition(",")[0] for one in kind.names]  # "tench, Tinca tinca"
        # ImageNet has two cranes: a name that comes twice stands whole.
        names = [whole if names.count(one) > 1 else one for one, whole in zip(names, kind.names)]
        return [set() if value in (None, -1) else {names[value]} for value in values]
    return [set() if value is None else {value} for value in values]
