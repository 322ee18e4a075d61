"""Words in the columns of an image dataset: labels and captions, one or several an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbsae_hub.pictures import ImageDataset


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
