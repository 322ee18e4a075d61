"""Photo World: every cut-out on photographs and on plain colours, with the truth, as a dataset in Parquet."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from tqdm import tqdm

from cbsae_hub.hub.files import replace_file
from training.photo_world.cutouts import Cutout

SIDE = 224
BACKDROPS_FOLDER = Path("usr/share/backgrounds/mate/nature")
PHOTOGRAPHS = {  # those that show no object
    "Aqua": "water", "Blinds": "leaf", "Dune": "dry grass", "GreenMeadow": "grass", "RainDrops": "wet leaves",
    "Storm": "road under clouds", "Wood": "wood",
}  # fmt: skip
COLOURS = {
    "white": (250, 250, 250), "grey": (128, 128, 128), "black": (12, 12, 12), "red": (190, 50, 45),
    "yellow": (235, 205, 70), "green": (70, 140, 70), "blue": (60, 100, 180),
}  # fmt: skip
SHARES = (0.45, 0.9)  # of the scene's side, the longer side of a cut-out
LARGEST = 3.0  # times its own size
TURN = 15  # degrees, to either side
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
TEXT = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": TEXT,
        "concept": TEXT,
        "kinds": datasets.List(TEXT),
        "background": TEXT,
        "place": TEXT,
        "box": datasets.List(datasets.Value("float32")),
        "cutout": datasets.Value("int32"),
    }
)


@dataclass(frozen=True)
class Scene:
    """A cut-out somewhere before something.

    Attributes:
        image: RGB.
        background: Its name.
        box: x0, y0, x1, y1 in pixels, around what is visible of the cut-out.
    """

    image: Image.Image
    background: str
    box: tuple[int, int, int, int]

    @property
    def place(self) -> str:
        """The third of the scene, by row and by column, that the middle of the box lies in."""
        x, y = ((a + b) / 2 for a, b in zip(self.box[:2], self.box[2:]))
        row, column = (names[min(int(3 * at / SIDE), 2)] for names, at in ((ROWS, y), (COLUMNS, x)))
        return row if row == column else f"{row} {column}"


def read_backdrops(package: Path) -> dict[str, Image.Image]:
    """The photographs without objects, by what they show, no larger than scenes need."""
    backdrops = {}
    for stem, name in PHOTOGRAPHS.items():
        image = Image.open(package / BACKDROPS_FOLDER / f"{stem}.jpg").convert("RGB")
        image.thumbnail((4 * SIDE, 4 * SIDE))
        backdrops[name] = image
    return backdrops


def draw(cutout: Image.Image, turns: bool, backdrops: dict[str, Image.Image], rng: np.random.Generator) -> Scene:
    """Draws a scene: before a photograph or a plain colour, each as likely.

    Args:
        cutout: RGBA.
        turns: Whether it may be mirrored.
        backdrops: Photographs by name.
        rng: Decides everything.
    """
    if rng.random() < 0.5:
        background = str(rng.choice(list(backdrops)))
        scene = _crop(backdrops[background], rng)
    else:
        colour = str(rng.choice(list(COLOURS)))
        background, scene = f"plain {colour}", Image.new("RGB", (SIDE, SIDE), COLOURS[colour])
    if turns and rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
    scale = min(rng.uniform(*SHARES) * SIDE / max(cutout.size), LARGEST)
    cutout = cutout.resize([max(1, round(scale * side)) for side in cutout.size], Image.Resampling.LANCZOS)
    x, y = (int(rng.integers(0, SIDE - side + 1)) for side in cutout.size)
    scene.paste(cutout, (x, y), cutout)
    x0, y0, x1, y1 = cutout.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox() or (0, 0, *cutout.size)
    return Scene(scene, background, (x + x0, y + y0, x + x1, y + y1))


def _crop(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(rng.uniform(0.4, 1.0) * min(photograph.size))
    x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    return photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (x, y, x + side, y + side))


def rows(
    cutouts: Sequence[Cutout], numbers: Sequence[int], backdrops: dict[str, Image.Image], views: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The rows of a split; a scene depends on the seed, its cut-out and its number alone."""
    for number in numbers:
        cutout = cutouts[number]
        for view in range(views):
            scene = draw(cutout.image, cutout.turns, backdrops, np.random.default_rng([seed, number, view]))
            content = io.BytesIO()
            scene.image.save(content, "WEBP", quality=90)
            yield {
                "image": {"bytes": content.getvalue(), "path": None},
                "caption": f"{cutout.concept}, {scene.background}",
                "concept": cutout.concept,
                "kinds": list(cutout.kinds),
                "background": scene.background,
                "place": scene.place,
                "box": list(scene.box),
                "cutout": number,
            }


def write_scenes(
    cutouts: Sequence[Cutout],
    splits: dict[str, list[int]],
    backdrops: dict[str, Image.Image],
    views: dict[str, int],
    seed: int,
    folder: Path,
) -> None:
    """Writes a Parquet file for each split; those that are there stay.

    Args:
        cutouts: All cut-outs.
        splits: Numbers of the cut-outs of each.
        backdrops: Photographs by name.
        views: Scenes of a cut-out, by split.
        seed: Seed of all scenes.
        folder: Of the dataset.
    """
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        if path.is_file():
            continue
        scenes = rows(cutouts, numbers, backdrops, views[split], seed)
        total = len(numbers) * views[split]
        drawn = list(tqdm(scenes, total=total, desc=f"draw {split}", unit="scene"))
        with replace_file(path) as temporary:
            datasets.Dataset.from_list(drawn, features=FEATURES).to_parquet(temporary)
