"""The cut-outs of Tux Paint's stamps: photographs without background, with a caption, in a tree of kinds."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS_FOLDER = Path("usr/share/tuxpaint/stamps")
LEFT_OUT = {"symbols", "seasonal", "cartoon"}  # folders of drawings
FLAT = 0.4  # from this share of equal neighbours on, a picture is a drawing
SMALLEST = 45  # pixels of the longer side
LEAST_OF_A_KIND = 5  # cut-outs, so that each split has some
LONGEST_NAME = 4  # words of a caption that is a name: others talk
SPLITS = {"train": 0.5, "probe": 0.25, "test": 0.25}
BESIDES = re.compile(r"\(.*\)|,.*")
ARTICLE = re.compile(r"^(an?|the|our|some|one|two)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Cutout:
    """A photograph without background.

    Attributes:
        file: Where it lies in the tree.
        concept: Its name.
        kinds: The folders that it lies in, the widest first; of those that hold enough cut-outs.
        image: RGBA, no wider and higher than what is visible.
        turns: Whether its mirror image is as good.
    """

    file: str
    concept: str
    kinds: tuple[str, ...]
    image: Image.Image
    turns: bool


def read_cutouts(package: Path) -> list[Cutout]:
    """Reads the cut-outs that are photographs, each once, in the order of their files.

    Args:
        package: The unpacked package.

    Raises:
        OSError: If there are none.
    """
    root, contents, photographs = package / STAMPS_FOLDER, set(), []
    for file in sorted(root.rglob("*.png")):
        place = file.relative_to(root)
        content = hashlib.sha256(file.read_bytes()).digest()
        if LEFT_OUT & set(place.parts) or file.stem.endswith(("_mirror", "_flip")) or content in contents:
            continue
        image = Image.open(file).convert("RGBA")
        if max(image.size) >= SMALLEST and flatness(image) < FLAT:
            contents.add(content)
            photographs.append((place, image.crop(image.getchannel("A").point(lambda a: 255 * (a > 25)).getbbox())))
    if not photographs:
        raise OSError(f"there are no cut-outs in {root}")
    sizes = Counter(folder for place, _ in photographs for folder in place.parts[:-1])
    return [
        Cutout(
            str(place),
            name_of(root / place),
            tuple(folder for folder in place.parts[:-1] if sizes[folder] >= LEAST_OF_A_KIND),
            image,
            not _says(root / place, "nomirror"),
        )
        for place, image in photographs
    ]


def flatness(image: Image.Image) -> float:
    """Share of neighbours in a row, both opaque, that have the same colour: drawings have areas, photographs noise."""
    pixels = np.asarray(image)
    opaque = pixels[..., 3] > 250
    pairs = opaque[:, 1:] & opaque[:, :-1]
    same = (pixels[:, 1:, :3] == pixels[:, :-1, :3]).all(-1) & pairs
    return float(same.sum() / max(pairs.sum(), 1))


def name_of(file: Path) -> str:
    """The thing on a cut-out: its caption without the article, if that is a name; else the name of its file."""
    text = file.with_suffix(".txt")
    caption = text.read_text(encoding="utf-8").splitlines()[0] if text.is_file() else ""
    caption = BESIDES.sub("", caption).rstrip(" .")
    name = ARTICLE.sub("", caption)
    if name != caption and 0 < len(name.split()) <= LONGEST_NAME and name[-1] not in "!?":
        return name.translate(str.maketrans("", "", "“”'")).lower()
    return " ".join(re.findall(r"[a-z]+", file.stem.lower()))


def _says(file: Path, word: str) -> bool:
    settings = file.with_suffix(".dat")
    return settings.is_file() and word in settings.read_text(encoding="utf-8").split()


def split_cutouts(cutouts: Sequence[Cutout], seed: int) -> dict[str, list[int]]:
    """Places of the cut-outs in each split: of every kind, each split has its share.

    Cut-outs of one concept stay together: three photographs of the moon are hardly three things.
    """
    rng, splits = np.random.default_rng([seed, 1]), {name: [] for name in SPLITS}
    kinds: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for i, cutout in enumerate(cutouts):
        kinds.setdefault(cutout.kinds, {}).setdefault(cutout.concept, []).append(i)
    for concepts in kinds.values():
        order = [concepts[name] for name in rng.permutation(sorted(concepts))]
        total, passed = sum(map(len, order)), 0
        for members in order:
            share = (passed + len(members) / 2) / total
            ends = np.cumsum(list(SPLITS.values()))
            splits[list(SPLITS)[int(np.searchsorted(ends[:-1], share, side="right"))]] += members
            passed += len(members)
    return {name: sorted(members) for name, members in splits.items()}
