"""Fills an activation store: in shards, atomically, on any number of processes, and on from where it was killed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.numpy import save_file
from tqdm import tqdm

from cbsae_hub.data.activations import (
    FORMAT,
    MANIFEST,
    SCHEMA_VERSION,
    TENSOR,
    ActivationStore,
    StoreError,
    digest,
    map_shard,
)
from cbsae_hub.data.images import read_pictures
from cbsae_hub.version import __version__
from cbsae_hub.vision.encoder import VisionEncoder

SETTINGS = "settings.json"


def extract_activations(
    encoder: VisionEncoder,
    images: Any,
    folder: str | Path,
    *,
    source: dict[str, Any],
    dtype: str = "float16",
    images_per_shard: int = 1024,
    batch_size: int = 256,
    seed: int = 0,
    accelerator: Accelerator | None = None,
) -> ActivationStore:
    """Writes the activations of all images; shards that are there already are kept.

    A shard is one call's work whichever process does it, so the store is the same for every number of processes.

    Args:
        encoder: Says which layer and tokens.
        images: Map-style dataset with a column ``image`` of PIL images.
        folder: Where; created.
        source: What the images are (id, split, ...): kept in the manifest, and compared when resuming.
        dtype: "float16" or "float32".
        images_per_shard: Images of a shard.
        batch_size: Images a forward pass; shards are cut in batches of this size.
        seed: Of the tokens that "random:n" draws; an image's tokens depend on it and the image's number alone.
        accelerator: Of the run, for more than one process.

    Returns:
        The finished store.

    Raises:
        ValueError: If there are no images, an image cannot be read, or activations are NaN, infinite, or too large
            for float16; names the image.
        StoreError: If the folder holds a store of other settings; names them.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if not len(images):
        raise ValueError("there are no images to extract activations of")
    accelerator = accelerator or Accelerator(cpu=True)
    folder = Path(folder)
    settings = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "encoder": encoder.provenance(),
        "images": source,
        "num_images": len(images),
        "tokens_per_image": encoder.tokens_per_image,
        "d_in": encoder.d_in,
        "dtype": dtype,
        "images_per_shard": images_per_shard,
        "batch_size": batch_size,
        "seed": seed,
    }
    if accelerator.is_main_process:
        _claim(folder, settings)
    accelerator.wait_for_everyone()
    count = -(-len(images) // images_per_shard)
    mine = [shard for shard in range(accelerator.process_index, count, accelerator.num_processes)]
    with tqdm(total=len(mine), desc="shards", disable=not accelerator.is_main_process) as bar:
        for shard in mine:
            path = folder / _shard_name(shard)
            if not _is_whole(path):
                first = shard * images_per_shard
                rows = _encode(encoder, images, first, min(first + images_per_shard, len(images)), settings)
                partial = path.with_suffix(".partial")
                save_file({TENSOR: rows}, partial, metadata={"sha256": digest(rows)})
                _sync(partial)
                os.replace(partial, path)
            bar.update()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shards = [_entry(folder / _shard_name(shard)) for shard in range(count)]
        _write_json(folder / MANIFEST, {**settings, "shards": shards})
    accelerator.wait_for_everyone()
    return ActivationStore.open(folder)


def _shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Marks a new folder with the settings, or compares them with those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if not path.is_file():
        if any(folder.glob("shard-*")):
            raise StoreError(f"{folder} holds shards without {SETTINGS}: choose another folder or empty this one")
        _write_json(path, settings)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    expected = json.loads(json.dumps(settings))
    differing = [key for key in expected if there.get(key) != expected[key]]
    if differing:
        changes = "; ".join(f"{key}: {there.get(key)!r} there, {expected[key]!r} now" for key in differing)
        raise StoreError(
            f"{folder} holds a store of other settings ({changes}): choose another folder or empty this one"
        )


def _is_whole(path: Path) -> bool:
    """Whether a shard of an earlier run is there; a damaged one is made again."""
    try:
        return path.is_file() and digest(map_shard(path)) == _stored_digest(path)
    except StoreError:
        return False


def _stored_digest(path: Path) -> str:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header["__metadata__"]["sha256"]


def _entry(path: Path) -> dict[str, Any]:
    return {"file": path.name, "rows": len(map_shard(path)), "sha256": _stored_digest(path)}


def _encode(encoder: VisionEncoder, images: Any, start: int, stop: int, settings: dict[str, Any]) -> np.ndarray:
    """Rows of images ``start`` to ``stop``: ``[rows, d_in]`` in the store's dtype."""
    parts = []
    for first in range(start, stop, settings["batch_size"]):
        last = min(first + settings["batch_size"], stop)
        # Hashed, because torch reads no more than 32 bits of a seed.
        hashed = [np.random.SeedSequence([settings["seed"], image]).generate_state(1) for image in range(first, last)]
        seeds = [int(value[0]) for value in hashed]
        v = encoder(read_pictures(images, first, last), seeds).to(getattr(torch, settings["dtype"])).cpu()
        finite = v.flatten(1).isfinite().all(1)
        if not finite.all():
            image = first + int((~finite).nonzero()[0])
            raise ValueError(
                f"the activations of image {image} are NaN, infinite or too large for {settings['dtype']}; "
                "if they are only large, use dtype float32"
            )
        parts.append(v.flatten(0, 1).numpy())
    return np.concatenate(parts)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _sync(partial)
    os.replace(partial, path)


def _sync(path: Path) -> None:
    """Makes sure that the bytes are on disk before the file gets its final name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
