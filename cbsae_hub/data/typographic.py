"""Pictures with one label each and perhaps a word on them: attacked ones, and the published benchmarks."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cbsae_hub.hub.files import read_json
from cbsae_hub.pictures import to_rgb

Attack = Callable[[Image.Image, str, np.random.Generator], Image.Image]
"""Writes a word on a picture, with places and the like drawn from a generator."""
_NAME = re.compile(r"label=(?P<label>.+)_text=(?P<word>.+)")  # of RTA-100's and PAINT's files
_NAMING = (
    "the pictures of {} must be called label=cup_text=dog.png, for a cup with the word dog on it, or be listed in "
    "annotations.json: {}"
)
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class LabelledImages:
    """Pictures, of which each shows one thing.

    Attributes:
        open: Opens a picture by its number.
        labels: Names of what they show.
        words: Words that are written on them, or None.
    """

    open: Callable[[int], Image.Image]
    labels: tuple[str, ...]
    words: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, numbers: Sequence[int]) -> "LabelledImages":
        """Some of the pictures.

        Args:
            numbers: Their numbers.
        """
        words = None if self.words is None else tuple(self.words[i] for i in numbers)
        return LabelledImages(lambda i: self.open(numbers[i]), tuple(self.labels[i] for i in numbers), words)

    def attacked(self, attack: Attack, classes: Sequence[str], seed: int) -> "LabelledImages":
        """The same pictures, each with the name of a class on it that it does not show.

        Args:
            attack: Writes it.
            classes: Names to draw from.
            seed: Seed; with the number of a picture it decides about its attack.

        Raises:
            ValueError: If there is no other class.
        """
        if len(set(classes)) < 2:
            raise ValueError(f"all pictures show {', '.join(classes)}: an attack writes the name of another class")
        rngs = [np.random.default_rng([seed, number, 7]) for number in range(len(self))]
        words = tuple(
            str(rng.choice([name for name in classes if name != label])) for rng, label in zip(rngs, self.labels)
        )

        def draw(number: int) -> Image.Image:
            return attack(self.open(number), words[number], np.random.default_rng([seed, number, 8]))

        return LabelledImages(draw, self.labels, words)


@dataclass(frozen=True)
class Benchmark:
    """Attacked pictures that somebody has published.

    Attributes:
        attacked: Pictures with words on them.
        clean: Pictures without, or None.
        classes: The answers to choose from: all labels and written words.
        template: Prompt with ``{}`` for a class.
    """

    attacked: LabelledImages
    clean: LabelledImages | None
    classes: tuple[str, ...]
    template: str


def read_benchmark(folder: str | Path) -> Benchmark:
    """Reads a benchmark of typographic attacks.

    RTA-100 (Azuma and Matsui 2023) and PAINT (Ilharco et al. 2022) say in the names of their files what they show and
    what is written on it, ``label=cup_text=dog.png``. That of Materzynska et al. (2022) has ``annotations.json``, where
    a picture without a word has the empty one, and its pictures in ``images/``.

    Args:
        folder: Its folder, with any folders in it.

    Raises:
        ValueError: If the folder is of neither form, or no picture in it is attacked.
        OSError: If there is no such folder, or a picture is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: download the benchmark and name its folder")
    listed = next((file for name in ("annotations", "annotation") for file in folder.rglob(f"{name}.json")), None)
    rows, template = (_annotated(listed), "a photo of {}.") if listed else (_by_name(folder), "a photo of a {}.")
    attacked, clean = [row for row in rows if row[2]], [row for row in rows if not row[2]]
    if not attacked:
        raise ValueError(f"no picture of {folder} has a word on it: the benchmark attacks nothing")
    classes = sorted({row[1] for row in rows} | {row[2] for row in attacked})
    return Benchmark(_images(attacked), _images(clean) if clean else None, tuple(classes), template)


def _by_name(folder: Path) -> list[tuple[Path, str, str]]:
    """File, label and written word of each picture."""
    rows = []
    for file in sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES):
        if (name := _NAME.fullmatch(file.stem)) is None:
            raise ValueError(_NAMING.format(folder, f"{file.name} does not"))
        rows.append((file, name["label"].replace("_", " "), name["word"].replace("_", " ")))
    if not rows:
        raise ValueError(_NAMING.format(folder, "there are none"))
    return rows


def _annotated(file: Path) -> list[tuple[Path, str, str]]:
    """Likewise, of a list of annotations."""
    folder = file.parent / "images" if (file.parent / "images").is_dir() else file.parent
    rows = []
    for name, entry in read_json(file).items():
        try:
            rows.append((folder / name, str(entry["true object"]), str(entry["typographic attack label"] or "")))
        except (KeyError, TypeError):
            raise ValueError(
                f'{file}: {name} needs {{"true object": "cup", "typographic attack label": "dog"}}, got {entry!r:.80}'
            ) from None
        if not rows[-1][0].is_file():
            raise FileNotFoundError(f"{file} lists {name}, but there is no {rows[-1][0]}")
    return rows


def _images(rows: Sequence[tuple[Path, str, str]]) -> LabelledImages:
    def load(number: int) -> Image.Image:
        with Image.open(rows[number][0]) as image:
            return to_rgb(image)

    words = tuple(word for _, _, word in rows)
    return LabelledImages(load, tuple(label for _, label, _ in rows), words if any(words) else None)
