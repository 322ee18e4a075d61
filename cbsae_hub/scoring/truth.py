"""Labels of probe images, by kind: what neurons can be held against where the truth is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbsae_hub.metrics.ground_truth import label_matrix


@dataclass
class Truth:
    """What is known of the images.

    Attributes:
        families: Name of a kind of label ("concept", "background", ...) to the column that holds it: ``background`` (a
            name, or None) or ``objects.name`` (names in a list of records).
        labels: The (family, name) of each column of ``matrix``.
        matrix: ``[images, labels]`` bool.
    """

    families: dict[str, str]
    labels: list[tuple[str, str]]
    matrix: np.ndarray

    @classmethod
    def read(cls, images: Any, families: Mapping[str, str]) -> "Truth":
        """Reads the labels of a dataset.

        Raises:
            ValueError: If the dataset lacks a column.
        """
        labels, blocks = [], []
        for family, column in families.items():
            matrix, names = label_matrix(_label_sets(images, column))
            labels += [(family, name) for name in names]
            blocks.append(matrix)
        matrix = np.concatenate(blocks, 1) if blocks else np.zeros((len(images), 0), dtype=bool)
        return cls(dict(families), labels, matrix)

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
    name, _, record_field = column.partition(".")
    try:
        values = images[name]
    except KeyError as error:
        raise ValueError(f"the images have no column {name!r}") from error
    if record_field:
        return [{item[record_field] for item in row if item[record_field] is not None} for row in values]
    return [set() if value is None else {value} for value in values]
