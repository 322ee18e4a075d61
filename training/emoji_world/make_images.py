"""Writes the published scenes ``hub/emoji-images`` as Parquet: probe, test, shifted and spurious splits, and the card.

    python -m training.emoji_world.make_images

Every split has the same columns: image, caption, objects (name, box, group, subgroup), background, style, written_word,
and spurious_group (0 to 3 in the spurious splits, as in Waterbirds: 2 * water animal + water background; else null).
``concepts.txt`` beside them is the vocabulary: every concept, then every background.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import datasets
import numpy as np
import torch
import typer
from PIL import Image
from tqdm import tqdm

from cbsae_hub.hub.files import replace_file, write_text
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import captions, kind_of
from training.emoji_world.glyphs import Atlas, Concept
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, STYLES, SceneRenderer, Scenes, SceneSpec

CHUNK = 256
WATER_ANIMALS = {"animal-marine", "animal-amphibian"}
LAND_ANIMALS = {"animal-mammal", "animal-bug"}
SWIMMING_MAMMALS = {"otter", "beaver", "hippopotamus"}  # at home in both: not used for the spurious splits
PLACES = {False: ("grass", "sand"), True: ("water",)}
TEXT = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": TEXT,
        "objects": datasets.List(
            {"name": TEXT, "box": datasets.List(datasets.Value("float32")), "group": TEXT, "subgroup": TEXT}
        ),
        "background": TEXT,
        "style": TEXT,
        "written_word": TEXT,
        "spurious_group": datasets.Value("int8"),
    }
)
PLAIN = SceneSpec()
SINGLE = SceneSpec(objects=(1,))
# Split: number of scenes, kind of scenes. Where a shift's cost is measured, a scene has one object and one answer.
SPLITS: dict[str, tuple[int, SceneSpec]] = {
    "probe": (4608, PLAIN),
    "test": (1536, SceneSpec(objects=(1, 1, 1, 2, 3))),
    **{f"test_{style}": (424, SceneSpec(objects=(1,), style_share=1.0, styles=(style,))) for style in STYLES[1:]},
    "typographic": (424, SceneSpec(objects=(1,), word_share=1.0)),
}
# Split: number of scenes, share of them whose animal is where it lives.
SPURIOUS = {"spurious_train": (800, 0.95), "spurious_val": (240, 0.5), "spurious_test": (480, 0.5)}


def encode(pixels: torch.Tensor) -> dict[str, Any]:
    """One scene ``[3, 64, 64]`` as WebP, in the form that ``datasets`` stores images."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=88, method=4)
    return {"bytes": buffer.getvalue(), "path": None}


def _rows(
    renderer: SceneRenderer, scenes: Scenes, rng: np.random.Generator, groups: np.ndarray | None = None
) -> Iterator[dict[str, Any]]:
    texts = captions(scenes, renderer.atlas.concepts, rng)
    for i, (truth, text) in enumerate(zip(renderer.rows(scenes), texts)):
        group = None if groups is None else int(groups[i])
        yield {"image": encode(scenes.pixels[i]), "caption": text, **truth, "spurious_group": group}


def split_rows(renderer: SceneRenderer, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one split; each split has batches of scenes of its own."""
    number = [*SPLITS, *SPURIOUS].index(split)
    rng = np.random.default_rng([renderer.seed, number, 4])
    first = 10_000 * (number + 1)
    if split in SPLITS:
        count, spec = SPLITS[split]
        for index, start in enumerate(range(0, count, CHUNK)):
            size = min(CHUNK, count - start)
            fixed = {}
            if spec.objects == (1,):  # every concept is shown as often as any other
                concepts = np.full((size, 3), NO_OBJECT)
                concepts[:, 0] = np.arange(start, start + size) % len(renderer.atlas.concepts)
                fixed = {"concepts": concepts}
            yield from _rows(renderer, renderer.batch(first + index, size, spec, **fixed), rng)
        return
    count, at_home = SPURIOUS[split]
    water = rng.random(count) < 0.5
    in_water = np.where(rng.random(count) < at_home, water, ~water)
    land_animals, water_animals = (
        [
            index
            for index, concept in enumerate(renderer.atlas.concepts)
            if concept.subgroup in subgroups and concept.name not in SWIMMING_MAMMALS
        ]
        for subgroups in (LAND_ANIMALS, WATER_ANIMALS)
    )
    concepts = np.full((count, 3), NO_OBJECT)
    concepts[:, 0] = [rng.choice(water_animals if w else land_animals) for w in water]
    places = np.array([BACKGROUNDS.index(rng.choice(PLACES[bool(w)])) for w in in_water])
    scenes = renderer.batch(first, count, SINGLE, concepts=concepts, backgrounds=places)
    yield from _rows(renderer, scenes, rng, 2 * water + in_water)


def main(
    seed: Annotated[int, typer.Option(help="Seed of the scenes; the encoders are trained with others.")] = 100,
    output: Annotated[Path, typer.Option(help="Folder of the published dataset.")] = HUB / "emoji-images",
) -> None:
    """Draw and write every split."""
    renderer = SceneRenderer(Atlas.build(), seed)
    data = output / "data"
    data.mkdir(parents=True, exist_ok=True)
    for split in tqdm([*SPLITS, *SPURIOUS], desc="splits"):
        dataset = datasets.Dataset.from_list(list(split_rows(renderer, split)), features=FEATURES)
        with replace_file(data / f"{split}-00000-of-00001.parquet") as file:
            dataset.to_parquet(file)
    write_concept_sets(renderer.atlas.concepts, output)


def write_concept_sets(concepts: Sequence[Concept], output: Path) -> None:
    """Writes concepts.txt, what scenes show, kinds.txt, what kinds of things those are, and words.txt, their words."""
    names, kinds = [concept.name for concept in concepts] + list(BACKGROUNDS), {kind_of(c) for c in concepts}
    words = {word for name in (*names, *kinds, *STYLES) for word in name.split() if word != "and"}
    sets = {"concepts": names, "kinds": sorted(kinds), "words": sorted(words)}
    for name, lines in sets.items():
        write_text(output / f"{name}.txt", "\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
