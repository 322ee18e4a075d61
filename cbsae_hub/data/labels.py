"""Words in the columns of an image dataset: labels and captions, one or several an image."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cbsae_hub.pictures import ImageDataset

if TYPE_CHECKING:
    import datasets

CAPTIONS = tuple(
    "caption captions description descriptions text texts txt alt_text alt sentence sentences prompt title".split()
)
CLASSES = tuple("label labels class classes cls category categories target".split())
WORDS_A_LABEL = 6
URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def words_in(value: Any, classes: Sequence[str] | None = None) -> list[str]:
    """The texts in a cell of a column, each once.

    Args:
        value: A text, a number (whole ones are "3", also where they are stored as 3.0), or a list of such, nested or
            not. None, NaN and what is empty say nothing.
        classes: Names that numbers stand for; -1 stands for none.

    Raises:
        ValueError: If there is a record: only one of its fields could be meant.
    """
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return list(dict.fromkeys(text for item in value for text in words_in(item, classes)))
    if isinstance(value, Mapping):
        raise ValueError(f"here are records ({', '.join(map(str, value))}), not texts")
    if value is None or value != value:  # NaN, with which pandas fills gaps
        return []
    if classes is not None:
        return [classes[int(value)]] if value != -1 else []
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return [text] if text else []


def class_names(images: ImageDataset, column: str, field: str = "") -> list[str] | None:
    """Names of the classes that a column, or a field of its records, holds numbers of; None if it holds none.

    Records may lie in lists. A dataset without ``features`` has no classes.
    """
    kind = _inner((getattr(images, "features", None) or {}).get(column))
    if field and isinstance(kind, Mapping):
        kind = _inner(kind.get(field))
    if kind is None:
        return None
    from datasets import ClassLabel  # who has classes has it

    return kind.names if isinstance(kind, ClassLabel) else None


def _inner(kind: Any) -> Any:
    """The type of a list's items, however deep the list."""
    while isinstance(kind, list) or (hasattr(kind, "feature") and not isinstance(kind, Mapping)):
        kind = kind[0] if isinstance(kind, list) else kind.feature
    return kind


def find_captions(images: "datasets.Dataset") -> str | None:
    """The column that says in words what a picture shows: of texts, or lists of them, and called so or ``..._caption``.

    Where several are, the word that comes first in :data:`CAPTIONS` decides.
    """
    texts = [column for column, kind in images.features.items() if _dtype(kind) in ("string", "large_string")]
    for word in CAPTIONS:
        for column in texts:
            if f"_{column.lower()}".endswith(f"_{word}") and any(map(_is_text, _cells(images, column))):
                return column
    return None


def find_labels(images: "datasets.Dataset", besides: str | None = None) -> tuple[str, ...]:
    """Columns that are labels of pictures: their values are few and short, and return.

    Classes, texts and lists of both are; numbers only in columns that are called so, ``label`` or ``..._label``: a
    width returns as well. They have 2 values at least, and as many pictures as twice their values. Texts of more
    than 6 words on average, and addresses, are no labels.

    Args:
        images: The dataset.
        besides: A column that is none, the one of the captions.
    """
    return tuple(column for column in images.column_names if column != besides and _is_label(images, column))


def _is_label(images: "datasets.Dataset", column: str) -> bool:
    classes, dtype = class_names(images, column), _dtype(images.features[column])
    called_so = f"_{column.lower()}".endswith(tuple(f"_{word}" for word in CLASSES))
    if classes is None and dtype not in ("string", "large_string") and not (called_so and "int" in dtype):
        return False
    counts = Counter(value for cell in _cells(images, column) for value in words_in(cell, classes))
    if len(counts) < 2 or counts.total() < 2 * len(counts):
        return False
    words = sum(len(value.split()) for value in counts)
    return classes is not None or (words <= WORDS_A_LABEL * len(counts) and not _are_addresses(counts))


def _cells(images: "datasets.Dataset", column: str) -> list[Any]:
    return images.select_columns(column)[:][column]


def _dtype(kind: Any) -> str:
    """The type of a column's values, or of the items of its lists; "" for records, pictures and the like."""
    inner = _inner(kind)
    return "" if isinstance(inner, Mapping) else str(getattr(inner, "dtype", ""))


def _is_text(cell: Any) -> bool:
    texts = words_in(cell)
    return bool(texts) and not _are_addresses(texts)


def _are_addresses(values: Iterable[str]) -> bool:
    return any(map(URL.match, values))
