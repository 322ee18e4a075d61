"""Fills an activation store: in shards, atomically, on any number of processes, and on from where it was killed."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from safetensors.numpy import save_file
from tqdm import tqdm

from cbsae_hub.data.activations import (
    COUNTS,
    FORMAT,
    MANIFEST,
    RAGGED_VERSION,
    SCHEMA_VERSION,
    TENSOR,
    ActivationStore,
    StoreError,
    digest,
    layer_folder,
    map_shard,
    read_counts,
    read_header,
)
from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.images import read_images
from cbsae_hub.encoders.vision import VisionEncoder, read_together
from cbsae_hub.hub.files import OtherSettings, content_revision, replace_file, require_same_settings, write_json
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.processes import claimed, make_accelerator
from cbsae_hub.version import __version__

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
SAMPLE = 16  # images whose pixels are the fingerprint of a dataset

Activations = torch.Tensor | list[torch.Tensor]  # of a batch, [images, tokens, d_in], or [tokens, d_in] of each image


@runtime_checkable
class PixelSource(Protocol):
    """Images that never were PIL images, as pixel values of the encoder."""

    def __len__(self) -> int:
        """Number of images."""

    def pixel_batch(self, start: int, stop: int) -> torch.Tensor:
        """Pixel values of images ``start`` to ``stop``, ``[stop - start, 3, h, w]``."""


@runtime_checkable
class ItemSource(Protocol):
    """Texts, or questions about images: what an encoder with a method ``prepare`` reads."""

    def __len__(self) -> int:
        """Number of items."""

    def items(self, start: int, stop: int) -> list[Any]:
        """Items ``start`` to ``stop``, as the encoder takes them."""

    def content(self, item: int) -> list[str | bytes]:
        """The parts of an item, for a fingerprint."""


class TokenEncoder(Protocol):
    """The methods of an encoder that extraction calls; :class:`cbsae_hub.VisionEncoder` has them."""

    d_in: int

    @property
    def tokens_per_image(self) -> int:
        """Number of rows that an image gives."""

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the manifest."""

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed images, ``[images, 3, h, w]``."""

    def __call__(self, images: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Activations ``[images, tokens, d_in]`` of pixel values, with a seed per image."""


class ItemEncoder(Protocol):
    """The methods of an encoder of items; :class:`cbsae_hub.encoders.TextEncoder` and LanguageEncoder have them."""

    d_in: int

    @property
    def tokens_per_image(self) -> int | None:
        """Number of rows that an item gives; None where that depends on the item."""

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the manifest."""

    def prepare(self, items: list[Any], /) -> Any:
        """Items as the encoder's model takes them."""

    def __call__(self, items: Any, /, seeds: Sequence[int]) -> list[torch.Tensor]:
        """Activations ``[tokens, d_in]`` of each item, with a seed per item."""


def extract_activations(
    encoder: TokenEncoder | ItemEncoder,
    images: ImageDataset | PixelSource | ItemSource,
    folder: str | Path,
    *,
    source: dict[str, Any],
    dtype: str = "float16",
    images_per_shard: int = 1024,
    batch_size: int = 256,
    seed: int = 0,
    readers: int = 1,
    accelerator: Accelerator | None = None,
) -> ActivationStore:
    """Writes the activations of all images; shards that are there already are kept.

    A shard is one call's work whichever process does it, so the store is the same for every number of processes.

    Args:
        encoder: The encoder, with its layer and tokens.
        images: A dataset of PIL images, or one of pixel values; of an encoder of items, these.
        folder: Folder of the store; created.
        source: Description of the images (id, split, ...): stored in the manifest, and compared when resuming.
        dtype: "float16" or "float32".
        images_per_shard: Images of a shard.
        batch_size: Images a forward pass; shards are cut in batches of this size.
        seed: Seed of the random:n draw. The choice depends only on this seed and the image's number.
        readers: Threads that read and preprocess, each a batch, while the encoder works.
        accelerator: The run's, if it has several processes.

    Returns:
        The finished store.

    Raises:
        ValueError: If there are no images, a size is not positive, an image cannot be read, or activations are NaN,
            infinite, or too large for float16; names the image.
        StoreError: If the folder holds a store of other settings; names them.
        FolderInUse: If another run fills the folder.
    """

    def read(_: Sequence[Any], inputs: Any, seeds: Sequence[int]) -> list[Activations]:
        return [encoder(inputs, seeds)]

    options: dict[str, Any] = {
        "source": source,
        "dtype": dtype,
        "images_per_shard": images_per_shard,
        "batch_size": batch_size,
    }
    options |= {"seed": seed, "readers": readers, "accelerator": accelerator}
    return _extract({Path(folder): encoder}, read, images, **options)[0]


def extract_layers(
    encoders: Sequence[VisionEncoder],
    images: ImageDataset | PixelSource,
    folder: str | Path,
    **options: Any,
) -> list[ActivationStore]:
    """Writes the activations of several layers, or kinds of tokens, in one pass over the images.

    Each has a store of its own in the folder, see :func:`layer_folder`, the same as :func:`extract_activations` writes.
    Those that are finished are not read again, so that layers can be added later.

    Args:
        encoders: Layers and tokens of one model, see :meth:`VisionEncoder.at`.
        images: See :func:`extract_activations`.
        folder: Folder of the stores; created.
        **options: Those of :func:`extract_activations`. A shard of every layer is held in memory at once.

    Returns:
        The finished stores, in the order of the encoders.

    Raises:
        ValueError: See :func:`extract_activations`; or there are no encoders, two of them are the same, or they are of
            several models.
        StoreError: If a store of other settings is there; names them.
        FolderInUse: If another run fills one of the stores.
    """
    folders = {layer_folder(folder, one.layer, one.tokens): one for one in encoders}
    if not encoders or len(folders) < len(encoders):
        places = ", ".join(f"layer {one.layer}, {one.tokens}" for one in encoders) or "none"
        raise ValueError(f"layers to extract must be given, each of them once, got {places}")
    return _extract(folders, read_together, images, **options)


def _extract(
    encoders: Mapping[Path, Any],
    read: Callable[..., Sequence[Activations]],
    images: ImageDataset | PixelSource | ItemSource,
    *,
    source: dict[str, Any],
    dtype: str = "float16",
    images_per_shard: int = 1024,
    batch_size: int = 256,
    seed: int = 0,
    readers: int = 1,
    accelerator: Accelerator | None = None,
) -> list[ActivationStore]:
    """Fills one store for each encoder, by its folder; ``read(encoders, inputs, seeds)`` runs some of them at once."""
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
    if not len(images):
        raise ValueError("there are no images to extract activations of")
    if min(images_per_shard, batch_size, readers) < 1:
        raise ValueError("images_per_shard, batch_size and readers must be positive")
    accelerator = accelerator or make_accelerator()
    fingerprint = _fingerprint(images)
    stores = {
        folder: {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION if encoder.tokens_per_image is not None else RAGGED_VERSION,
            "package_version": __version__,
            "encoder": encoder.provenance(),
            "images": source,
            "num_images": len(images),
            "fingerprint": fingerprint,
            "tokens_per_image": encoder.tokens_per_image,
            "d_in": encoder.d_in,
            "dtype": dtype,
            "images_per_shard": images_per_shard,
            "batch_size": batch_size,
            "seed": seed,
        }
        for folder, encoder in encoders.items()
    }
    with ExitStack() as claims:
        for folder in stores:
            claims.enter_context(claimed(folder, accelerator))
        _fill(stores, encoders, read, images, readers, accelerator)
    return [ActivationStore.open(folder) for folder in stores]


def _fill(
    stores: Mapping[Path, dict[str, Any]],
    encoders: Mapping[Path, Any],
    read: Callable[..., Sequence[Activations]],
    images: ImageDataset | PixelSource | ItemSource,
    readers: int,
    accelerator: Accelerator,
) -> None:
    """Writes the shards that are missing, and then the manifests; ``stores`` are the settings of each by its folder."""
    if accelerator.is_main_process:
        for folder, settings in stores.items():
            _claim(folder, settings)
    accelerator.wait_for_everyone()
    common = next(iter(stores.values()))
    batch_size, seed, dtype = common["batch_size"], common["seed"], getattr(torch, common["dtype"])
    shards = _cut(range(len(images)), common["images_per_shard"])
    missing = {folder: _missing(folder, len(shards), accelerator) for folder in stores}
    every = sorted(set().union(*missing.values()))[accelerator.process_index :: accelerator.num_processes]
    mine = {shard: _cut(shards[shard], batch_size) for shard in every}
    batches = [ids for shard in mine.values() for ids in shard]
    one = next(iter(encoders.values()))  # they are of one model, which takes the same inputs
    reading = load_ahead(lambda ids: _read(one, images, ids), batches, readers)
    silent = not (batches and accelerator.is_main_process)
    progress = tqdm(total=sum(map(len, batches)), desc="extract", unit="image", disable=silent)
    with closing(reading) as inputs, progress:
        for shard, batches in mine.items():
            rows: dict[Path, list[np.ndarray]] = {folder: [] for folder in stores if shard in missing[folder]}
            counts: dict[Path, list[int]] = {folder: [] for folder in rows}
            for ids in batches:
                activations = read([encoders[folder] for folder in rows], next(inputs), _seeds(ids, seed))
                for folder, parts in zip(rows, activations):
                    rows[folder].append(_rows(parts, ids, dtype))
                    counts[folder] += map(len, parts)
                progress.update(len(ids))
            for folder in rows:
                ragged = stores[folder]["tokens_per_image"] is None
                path = folder / _shard_name(shard)
                _write_shard(path, np.concatenate(rows[folder]), counts[folder] if ragged else None)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for folder, settings in stores.items():
            entries = [_entry(folder / _shard_name(shard)) for shard in range(len(shards))]
            write_json(folder / MANIFEST, {**settings, "shards": entries}, indent=2)
    accelerator.wait_for_everyone()


def _shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Marks a folder without shards with the settings, or compares them with those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    for leftover in folder.glob(".*.tmp"):  # of a run that was killed
        leftover.unlink()
    if not any(folder.glob("shard-*")):
        write_json(path, settings, indent=2)
        return
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"{folder} holds shards, but no readable {SETTINGS}: choose another folder or empty this one"
        ) from error
    try:
        require_same_settings({key: existing.get(key) for key in settings}, settings, folder)
    except OtherSettings as error:
        raise StoreError(str(error)) from None


def _missing(folder: Path, count: int, accelerator: Accelerator) -> set[int]:
    """The shards of a store that no earlier run finished; each process looks at its share of them."""
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = [shard for shard in range(rank, count, world) if not _is_whole(folder / _shard_name(shard))]
    missing = set(gather_object(mine))
    if accelerator.is_main_process and len(missing) < count:
        logger.info("%s: %d of %d shards are there already", folder, count - len(missing), count)
    return missing


def _is_whole(path: Path) -> bool:
    """Whether a shard of an earlier run is there; a damaged one is made again."""
    try:
        if path.is_file() and COUNTS in read_header(path)[0]:
            read_counts(path)
        return path.is_file() and digest(map_shard(path)) == _entry(path)["sha256"]
    except StoreError:
        return False


def _entry(path: Path) -> dict[str, Any]:
    """A shard's line in the manifest."""
    header, _ = read_header(path)
    return {"file": path.name, "rows": header[TENSOR]["shape"][0], "sha256": header["__metadata__"]["sha256"]}


def _cut(ids: range, size: int) -> list[range]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _read(encoder: Any, images: ImageDataset | PixelSource | ItemSource, ids: range) -> Any:
    """Some images or items as the encoder takes them: pixel values ``[images, 3, h, w]``, say."""
    if isinstance(images, PixelSource):
        return images.pixel_batch(ids.start, ids.stop)
    if isinstance(images, ItemSource):
        return encoder.prepare(images.items(ids.start, ids.stop))
    return encoder.pixel_values(read_images(images, ids.start, ids.stop))


def _seeds(ids: range, seed: int) -> list[int]:
    """Seeds of the random:n draw of some images."""
    # Hashed, because torch reads no more than 32 bits of a seed.
    return [int(np.random.SeedSequence([seed, image]).generate_state(1)[0]) for image in ids]


def _rows(activations: Activations, ids: range, dtype: torch.dtype) -> np.ndarray:
    """Rows of some images ``[rows, d_in]``, one image after the other."""
    rows = torch.cat(list(activations)).to(dtype).cpu()
    finite = rows.isfinite().all(1)
    if not finite.all():
        ends = np.cumsum([len(part) for part in activations])
        image = ids[int(np.searchsorted(ends, int((~finite).nonzero()[0]), side="right"))]
        raise ValueError(
            f"the activations of image {image} are NaN, infinite or too large for {dtype}; "
            "if they are only large, use dtype float32"
        )
    return rows.numpy()


def _write_shard(path: Path, rows: np.ndarray, counts: list[int] | None) -> None:
    """Writes a shard: its rows, and the number of each image's where that depends on the image."""
    tensors, metadata = {TENSOR: rows}, {"sha256": digest(rows)}
    if counts is not None:
        tensors[COUNTS] = np.array(counts, np.int32)
        metadata[f"{COUNTS}_sha256"] = digest(tensors[COUNTS])
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _fingerprint(images: ImageDataset | PixelSource | ItemSource) -> str:
    """sha256 of the content of 16 images, first to last: tells a dataset from another of the same name and size."""
    parts: list[str | bytes] = []
    for image in np.unique(np.linspace(0, len(images) - 1, SAMPLE).astype(int)).tolist():
        if isinstance(images, ItemSource):
            parts += images.content(image)
            continue
        if isinstance(images, PixelSource):
            pixels = images.pixel_batch(image, image + 1).cpu().numpy()
        else:
            pixels = np.asarray(read_images(images, image, image + 1)[0])
        parts += [repr(pixels.shape), pixels.tobytes()]
    return content_revision(*parts)
