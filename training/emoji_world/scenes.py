"""Scenes of Emoji World as a ``datasets`` dataset that is drawn when it is read: any number, nothing on disk."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import datasets
import numpy as np
from PIL import Image

from training.emoji_world.captions import captions
from training.emoji_world.glyphs import Atlas
from training.emoji_world.render import SceneRenderer, SceneSpec

CHUNK = 64  # scenes drawn together; scene i belongs to chunk i // CHUNK whatever is read before or beside it
SPEC = SceneSpec(objects=(1, 1, 2, 3), style_share=0.1, word_share=0.05)
LABELLED = SceneSpec(objects=(1, 1, 2, 3), word_share=0.5)


class SceneSource:
    """Random access to the endless sequence of scenes of a seed; the chunks read last stay in memory."""

    def __init__(self, seed: int, spec: SceneSpec = SPEC, atlas: Atlas | None = None):
        self.renderer = SceneRenderer(atlas or Atlas.build(), seed)
        self.spec = spec
        self._chunk = lru_cache(maxsize=2)(self._draw)

    def _draw(self, chunk: int):
        scenes = self.renderer.batch(chunk, CHUNK, self.spec)
        rng = np.random.default_rng([self.renderer.seed, chunk, 5])
        return scenes.pixels, captions(scenes, self.renderer.atlas.concepts, rng), self.renderer.rows(scenes)

    def caption(self, scene: int) -> str:
        """The caption of a scene."""
        return self._chunk(scene // CHUNK)[1][scene % CHUNK]

    def rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """The published dataset's columns for a batch of ids, as ``datasets`` transforms give them."""
        columns: dict[str, list[Any]] = {}
        for i in batch["scene"]:
            pixels, caption, truth = (part[i % CHUNK] for part in self._chunk(i // CHUNK))
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            for name, value in {"image": image, "caption": caption, **truth}.items():
                columns.setdefault(name, []).append(value)
        return columns


def scene_dataset(seed: int, count: int, spec: SceneSpec = SPEC, atlas: Atlas | None = None) -> datasets.Dataset:
    """A map-style dataset of ``count`` scenes; rows are drawn on access and depend on seed and index alone."""
    source = SceneSource(seed, spec, atlas)
    ids = datasets.Dataset.from_dict({"scene": range(count)})
    ids.set_transform(source.rows)
    return ids


def labelled_scenes(seed: int, count: int) -> datasets.Dataset:
    """Scenes half of which have a written word, for an SAE of an encoder that reads; see :func:`scene_dataset`."""
    return scene_dataset(seed, count, LABELLED)


class SceneCaptions(Sequence[str]):
    """Captions of the first scenes of a seed, which are drawn when they are read."""

    def __init__(self, source: SceneSource, count: int):
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.source.caption(scene) for scene in range(*place.indices(self.count))]
        return self.source.caption(range(self.count)[place])


def scene_captions(seed: int, count: int) -> SceneCaptions:
    """Captions of scenes, for an SAE of a text encoder; see :func:`scene_dataset`."""
    return SceneCaptions(SceneSource(seed), count)
