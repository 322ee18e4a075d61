"""Writes ``hub/emoji-pairs``, pairs of scenes that differ in exactly one thing, as Parquet: a split for each thing.

    python -m training.emoji_world.make_pairs

Rows 2i and 2i + 1 of a split are a pair. Columns are those of emoji-images without caption and spurious_group, and
``pair``, the pair's number through all splits, and ``change``, the name of the split. The card's numbers go into
``metrics.json``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import typer
from tqdm import tqdm

from cbsae_hub.hub.files import replace_file, write_json
from training.emoji_world.backgrounds import BACKGROUNDS, SIDE
from training.emoji_world.glyphs import Atlas
from training.emoji_world.make_images import FEATURES as IMAGE_FEATURES
from training.emoji_world.make_images import PLAIN, encode
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, SIZES, STYLES, SceneRenderer, Scenes

SHARED = ("image", "objects", "background", "style", "written_word")
FEATURES = datasets.Features(
    {name: IMAGE_FEATURES[name] for name in SHARED}
    | {"pair": datasets.Value("int32"), "change": datasets.Value("string")}
)
ROUNDS = {"object": 2, "background": 8}  # in each of them every object or background comes once and goes once
PAIRS = {"style": 120, "written_word": 120, "place": 120, "size": 120}
KINDS = (*ROUNDS, *PAIRS)
TRIES = 64  # random places, of which the object moves to the best


def draw_pairs(renderer: SceneRenderer, kind: str) -> tuple[Scenes, Scenes]:
    """The first and the second scenes of all pairs of a kind.

    Both are drawn from the same random numbers, so that what is not changed is the same to the pixel. The object that
    changes, moves or grows is the last one, which none of the others hides.
    """
    number, names = KINDS.index(kind), len(renderer.atlas.concepts)
    rng = np.random.default_rng([renderer.seed, number, 6])
    cycle = names if kind == "object" else len(BACKGROUNDS)
    count = cycle * ROUNDS[kind] if kind in ROUNDS else PAIRS[kind]
    objects = rng.choice((1, 2) if kind in ("place", "size") else (1, 2, 3), count)
    turns = np.arange(count) % 2 == 1  # in every second pair the style or the word goes
    goes, comes = _cycles(rng, cycle, ROUNDS.get(kind, 1))
    changed = np.stack([goes, comes], 1) if kind == "object" else rng.integers(0, names, (count, 1))
    contents = _contents(rng, changed, objects, names)
    none, plain = np.full(count, NO_OBJECT), np.zeros(count, int)
    common = {"concepts": contents[0], "backgrounds": rng.integers(0, len(BACKGROUNDS), count), "styles": plain}
    common["words"] = none
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if kind == "object":
        sides = {"concepts": contents[0]}, {"concepts": contents[1]}
    elif kind == "background":
        sides = {"backgrounds": goes}, {"backgrounds": comes}
    elif kind == "style":
        styles = 1 + np.arange(count) // 2 % (len(STYLES) - 1)
        sides = {"styles": np.where(turns, styles, plain)}, {"styles": np.where(turns, plain, styles)}
    elif kind == "written_word":
        words = _contents(rng, contents[0], np.full(count, 2), names)[0][:, 0]  # none of the scene's objects
        sides = {"words": np.where(turns, words, none)}, {"words": np.where(turns, none, words)}
    elif kind == "place":
        sides = {}, {"arrange": _mover(rng, objects)}
    else:
        sides = {"arrange": _resizer(objects, second=False)}, {"arrange": _resizer(objects, second=True)}
    first, second = (renderer.batch(10_000 * (number + 1), count, PLAIN, **common | side) for side in sides)
    return first, second


def _cycles(rng: np.random.Generator, length: int, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what goes and what comes: each once in a round, and nothing replaces itself."""
    orders = [rng.permutation(length) for _ in range(rounds)]
    return np.concatenate(orders), np.concatenate([np.roll(order, 1) for order in orders])


def _contents(rng: np.random.Generator, changed: np.ndarray, objects: np.ndarray, names: int) -> list[np.ndarray]:
    """Concepts ``[n, 3]`` of scenes with each of the ``changed [n, variants]`` as the last object, else the same."""
    variants = [np.full((len(changed), 3), NO_OBJECT) for _ in changed.T]
    for row, (own, count) in enumerate(zip(changed, objects)):
        others = rng.permutation(np.setdiff1d(np.arange(names), own))[: count - 1]
        for variant, concept in zip(variants, own):
            variant[row, :count] = [*others, concept]
    return variants


def _mover(
    rng: np.random.Generator, objects: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Moves the last object: far, and on no other one."""

    def arrange(sizes: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, last = np.arange(len(objects)), objects - 1
        size, place = sizes[rows, last], centres[rows, last]
        margin = 0.45 * size[:, None, None]
        tries = margin + rng.random((len(rows), TRIES, 2)) * (SIDE - 2 * margin)
        merit = np.linalg.norm(tries - place[:, None], axis=-1)
        for other in range(2):
            gap = np.linalg.norm(tries - centres[:, other][:, None], axis=-1) - (size + sizes[:, other])[:, None] / 2
            merit += np.where((other < last)[:, None], 2 * np.minimum(gap, 0), 0)
        moved = centres.copy()
        moved[rows, last] = tries[rows, merit.argmax(1)]
        return sizes, moved

    return arrange


def _resizer(objects: np.ndarray, second: bool) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Keeps the size of the last object, or changes it by half of the range; both fit where it stands."""

    def arrange(sizes: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, last = np.arange(len(objects)), objects - 1
        low, high = np.array([SIZES[count] for count in objects]).T
        own = sizes[rows, last]
        other = low + (own - low + (high - low) / 2) % (high - low)
        margin = 0.45 * np.maximum(own, other)[:, None]
        sizes, centres = sizes.copy(), centres.copy()
        centres[rows, last] = np.clip(centres[rows, last], margin, SIDE - margin)
        sizes[rows, last] = other if second else own
        return sizes, centres

    return arrange


def pair_rows(renderer: SceneRenderer, kind: str, start: int) -> Iterator[dict[str, Any]]:
    """The rows of one split, whose first pair has the number ``start``."""
    scenes = draw_pairs(renderer, kind)
    truths = [renderer.rows(one) for one in scenes]
    for i in range(len(scenes[0])):
        for one, truth in zip(scenes, truths):
            yield {"image": encode(one.pixels[i]), **truth[i], "pair": start + i, "change": kind}


def main(
    seed: Annotated[int, typer.Option(help="Seed of the scenes; encoders and emoji-images have others.")] = 101,
    output: Annotated[Path, typer.Option(help="Folder of the published dataset.")] = HUB / "emoji-pairs",
) -> None:
    """Draw and write every split."""
    renderer = SceneRenderer(Atlas.build(), seed)
    data = output / "data"
    data.mkdir(parents=True, exist_ok=True)
    pairs: dict[str, int] = {}
    for kind in tqdm(KINDS, desc="splits"):
        rows = list(pair_rows(renderer, kind, sum(pairs.values())))
        pairs[kind] = len(rows) // 2
        with replace_file(data / f"{kind}-00000-of-00001.parquet") as file:
            datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(file)
    facts = {"seed": seed, "side": SIDE, "objects": len(renderer.atlas.concepts), "backgrounds": len(BACKGROUNDS)}
    write_json(output / "metrics.json", facts | {"pairs": pairs, "all_pairs": sum(pairs.values())}, indent=2)


if __name__ == "__main__":
    typer.run(main)
