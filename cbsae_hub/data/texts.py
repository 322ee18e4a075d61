"""Texts, and questions about images, for encoders that read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cbsae_hub.data.images import find_images, read_images
from cbsae_hub.hub.files import read_text, resolve_id
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.words import LINES

TEXT_TYPES = ("string", "large_string")
CAPTION = "caption"  # the column of texts, unless another is named


class Texts:
    """Texts as :func:`cbsae_hub.data.extraction.extract_activations` reads them."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def items(self, start: int, stop: int) -> list[str]:
        """Texts ``start`` to ``stop``; what is missing in a column is an empty text."""
        return [text or "" for text in self.texts[start:stop]]

    def content(self, item: int) -> list[str | bytes]:
        """The text, for a fingerprint."""
        return [*self.items(item, item + 1)]


class Questions:
    """Images with a question each, as :func:`cbsae_hub.data.extraction.extract_activations` reads them.

    Args:
        images: A dataset of PIL images.
        prompts: A question for each image; or one for all.
    """

    def __init__(self, images: ImageDataset, prompts: Sequence[str] | str):
        self.images, self.prompts = images, prompts

    def __len__(self) -> int:
        return len(self.images)

    def items(self, start: int, stop: int) -> list[tuple[Image.Image, str]]:
        """Images ``start`` to ``stop`` with their questions."""
        one = isinstance(self.prompts, str)
        prompts = [self.prompts] * (stop - start) if one else [text or "" for text in self.prompts[start:stop]]
        return list(zip(read_images(self.images, start, stop), map(str, prompts)))

    def content(self, item: int) -> list[str | bytes]:
        """The pixels and the question, for a fingerprint."""
        [(image, prompt)] = self.items(item, item + 1)
        pixels = np.asarray(image)
        return [repr(pixels.shape), pixels.tobytes(), prompt]


def load_texts(
    source: str | Path,
    split: str | None = None,
    column: str = CAPTION,
    revision: str | None = None,
    beside: str | Path | None = None,
) -> Texts:
    """Opens texts.

    Args:
        source: A file ``*.txt`` with a text a line, of which empty ones do not count; or a dataset with a column of
            texts, with images or without, see :func:`cbsae_hub.data.images.load_images`.
        split: Split of the dataset, several with "+".
        column: Its column of texts.
        revision: Branch, tag or commit of a dataset on the Hub.
        beside: A model folder next to which it may lie.

    Raises:
        ValueError: If the file has no texts, or the dataset no such split or column; names those that there are.
        OSError: If there is no such file or dataset.
    """
    place = Path(resolve_id(str(source), beside))
    if place.suffix == LINES:
        lines = [line.strip() for line in read_text(place).splitlines()]
        if not (texts := [line for line in lines if line]):
            raise ValueError(f"{source} has no texts: write one a line")
        return Texts(texts)
    if split is None:
        raise ValueError(f"texts of {source} need a split, as in split: train")
    return Texts(column_of(find_images(source, revision, beside).read(split), column, source))


def column_of(dataset: Any, column: str, source: str | Path) -> Sequence[str]:
    """A column of texts of a dataset; raises ValueError if it is none, and names the columns that there are."""
    texts = [name for name, kind in dataset.features.items() if getattr(kind, "dtype", None) in TEXT_TYPES]
    if column not in texts:
        raise ValueError(f"{source} has no column {column!r} of texts; it has {', '.join(texts) or 'none'}")
    return dataset[column]
