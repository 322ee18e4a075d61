"""Rows that a UNet learns from, computed once, in shards: latents of canonical pictures, and what they are drawn by."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import CLIPModel, CLIPVisionModelWithProjection

from cbsae_hub.hub.files import replace_file
from training.emoji_world.glyphs import Atlas
from training.emoji_world.layer_code import LayerCode, weighted_layers
from training.emoji_world.pushes import Pushes
from training.emoji_world.render import SceneRenderer, SceneSpec

SHARD = 1024  # rows a file, 2 MB
BATCH = 32  # scenes encoded at once: what the layers give then fits a processor's cache, which doubles the speed


def load_encoder(folder: Path) -> CLIPVisionModelWithProjection:
    """The frozen vision tower of a CLIPModel, with its projection, as the pipeline has it."""
    clip = CLIPModel.from_pretrained(folder)
    encoder = CLIPVisionModelWithProjection(clip.config.vision_config)
    encoder.vision_model, encoder.visual_projection = clip.vision_model, clip.visual_projection
    encoder.set_attn_implementation("eager")  # as in clip_models; not saved
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def embed(pixels: torch.Tensor, encoder: CLIPVisionModelWithProjection) -> torch.Tensor:
    """Embeddings of uint8 pixels ``[n, 3, 64, 64]``, on the CPU, not normalised: what the pipeline's encoder gives."""
    parts = (part.to(encoder.device).float() / 127.5 - 1 for part in pixels.split(BATCH))
    return torch.cat([encoder(pixel_values=part).image_embeds.float().cpu() for part in parts])


def encode(
    code: LayerCode, atlas: Atlas, concepts: np.ndarray, backgrounds: np.ndarray, styles: np.ndarray | None = None
) -> torch.Tensor:
    """Latents of canonical pictures, float16, of unit variance; the arguments are those of the pictures."""
    parts = (slice(start, start + BATCH) for start in range(0, len(concepts), BATCH))
    layers = (
        weighted_layers(atlas, concepts[part], backgrounds[part], None if styles is None else styles[part])
        for part in parts
    )
    return torch.cat([code.encode(part).half() for part in layers])


class LatentStore:
    """The first ``shards`` shards of a folder, in memory-mapped files."""

    def __init__(self, folder: Path, shards: int):
        self.shards = [load_file(_path(folder, shard)) for shard in range(shards)]

    def __len__(self) -> int:
        return len(self.shards) * SHARD

    def rows(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        """Tensors ``[n, ...]`` of the rows with these ids, by name; "latents" as float32."""
        places = [divmod(int(i), SHARD) for i in ids]
        rows = {name: torch.stack([self.shards[shard][name][row] for shard, row in places]) for name in self.shards[0]}
        return rows | {"latents": rows["latents"].float()}

    def column(self, name: str) -> torch.Tensor:
        """One tensor of all rows, ``[n, ...]``."""
        return torch.cat([shard[name] for shard in self.shards])


class EmbeddedScenes:
    """Rows of emoji-unclip: CLIP embeddings of scenes, and of pushes.

    Args:
        renderer: The scenes of shard i are its batch i.
        spec: The kind of scenes.
        code: The latents of pictures.
        encoder: The image encoder.
        pushed: Share of rows that are no scenes but pushes.
    """

    def __init__(
        self,
        renderer: SceneRenderer,
        spec: SceneSpec,
        code: LayerCode,
        encoder: CLIPVisionModelWithProjection,
        pushed: float,
    ):
        self.renderer, self.spec, self.code, self.encoder, self.pushed = renderer, spec, code, encoder, pushed

    @cached_property
    def pushes(self) -> Pushes:
        """The pushes, of directions that are learned at the first shard."""
        return Pushes(self.encoder, self.renderer)

    def __call__(self, shard: int, rows: int) -> dict[str, torch.Tensor]:
        """The tensors "latents" and "embeddings" of a shard's rows."""
        some = round(self.pushed * rows)
        drawn = self.renderer.batch(shard, rows - some, self.spec)
        embeddings = embed(drawn.pixels, self.encoder)
        latents = encode(self.code, self.renderer.atlas, drawn.concepts, drawn.backgrounds, drawn.styles)
        if some:
            further, concepts, backgrounds = self.pushes.draw(shard, some)
            embeddings = torch.cat([embeddings, further])
            latents = torch.cat([latents, encode(self.code, self.renderer.atlas, concepts, backgrounds)])
        return {"latents": latents, "embeddings": embeddings}


def store_latents(
    folder: Path, rows: int, shard_of: Callable[[int, int], dict[str, torch.Tensor]], made_with: str
) -> LatentStore:
    """Computes the shards that are missing, and opens all.

    Args:
        folder: Folder of the shards.
        rows: Number of rows at least; rounded up to whole shards.
        shard_of: Computes a shard's tensors, "latents" among them, of its number and its number of rows alone.
        made_with: Text that tells what the shards are made of from others.

    Raises:
        ValueError: If the folder's shards were made with something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-rows // SHARD)
    paths = [_path(folder, shard) for shard in range(count)]
    missing = [shard for shard, path in enumerate(paths) if not path.is_file()]
    for path in paths:
        if path.is_file():
            _check(path, made_with)
    for shard in tqdm(missing, desc="latents", unit="shard", mininterval=5):
        with replace_file(paths[shard]) as temporary:
            save_file(shard_of(shard, SHARD), temporary, metadata={"made_with": made_with})
    logging.getLogger(__name__).info("%d rows in %s", count * SHARD, folder)
    return LatentStore(folder, count)


def _path(folder: Path, shard: int) -> Path:
    return folder / f"latents-{shard:05d}.safetensors"


def _check(path: Path, made_with: str) -> None:
    with safe_open(path, framework="pt") as file:
        other = (file.metadata() or {}).get("made_with")
    if other != made_with:
        raise ValueError(
            f"{path} was made with {other}, not with {made_with}: give another run folder, or remove {path.parent}, "
            "whose checkpoint knows other latents too"
        )
