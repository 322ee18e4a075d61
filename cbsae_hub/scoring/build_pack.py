"""Computes a model's pack from its scores: one pass over the example images, to draw where in them neurons fire."""

import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.ahead import load_ahead
from cbsae_hub.data.images import read_images
from cbsae_hub.data.labels import class_names, words_in
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import plain, sha256
from cbsae_hub.models import CBSAE, SAE, folder_revision
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.processes import claimed
from cbsae_hub.scoring.icons import crops, icon_table
from cbsae_hub.scoring.report import MEASURED
from cbsae_hub.scoring.scores import Scores
from cbsae_hub.trainers.run import load_checkpoint, save_checkpoint

if TYPE_CHECKING:  # who draws no icons does without diffusers
    from cbsae_hub.scoring.icon_drawer import IconDrawer

logger = logging.getLogger(__name__)

ALT_COLUMN = "caption"
PARTIAL, PARTIAL_ICONS = ".maps.safetensors", ".icons"  # hidden, so that they are never published
CHECKPOINT_EVERY = 100  # batches
THUMBNAIL = 128  # pixels of the longer side, at most
WEBP_QUALITY = 84  # a ninth smaller than at 88, and nobody sees it


def build_pack(
    scores: Scores,
    sae: SAE | CBSAE,
    encoder: VisionEncoder,
    images: ImageDataset,
    folder: str | Path,
    *,
    source: dict[str, Any],
    alt_column: str | None = ALT_COLUMN,
    batch_size: int = 64,
    store: ActivationStore | None = None,
    drawer: "IconDrawer | None" = None,
) -> Pack:
    """Draws the maps of the examples that the scores name, and writes the pack beside the model.

    Maps are saved every hundred batches, hidden in the folder: started again after a kill, it goes on from there.

    Args:
        scores: Scores of the model on these images, with examples: see :meth:`NeuronScorer.results`.
        sae: The model.
        encoder: The encoder that it explains, as it was scored.
        images: Map-style dataset with a column ``image``.
        folder: The model's folder.
        source: Id and split of the images: kept in ``pack.json``.
        alt_column: See :func:`caption_column`.
        batch_size: Images a forward pass.
        store: Activations of all images, if they are there already: the encoder does not run then.
        drawer: Draws every neuron alone, for a second icon; None for none.

    Returns:
        The pack as read back.

    Raises:
        ValueError: If the scores have no examples, are of other images or another model, or there is no such column.
        EditError: If a neuron changes nothing of what unCLIP reads.
        FolderInUse: If another run writes into the folder.
    """
    alt_column = caption_column(images, alt_column)
    if scores.examples is None or scores.texts is None:
        raise ValueError("the scores name no examples: score with truth (Truth.read(images, {}) if nothing is known)")
    if scores.examples["image"].max() >= len(images):
        raise ValueError(f"the scores are of other images: here are {len(images)}, an example is in a later row")
    facts = {name: dict(scores.summary[name]) for name in ("model", "encoder", "judge", "naming")}
    scored = facts["model"].get("revision")
    if None not in (scored, sae.revision) and scored != sae.revision:
        raise ValueError(f"the scores are of another model, {scored}, not of {sae.revision}: score this one")
    facts["model"]["revision"] = folder_revision(folder) if any(Path(folder).glob("*model*.safetensors")) else None
    info = {
        **facts,
        "images": {**source, "n": len(images)},
        "concepts": scores.summary["concepts"],
        "grid": None if encoder.patch_rows is None else list(encoder.grid),
        "cropped": True,  # pictures show what the encoder saw; packs that were built before show them whole
        "scores": plain({name: part for name, part in scores.summary.items() if name in MEASURED}),
    }
    numbers = sorted(map(int, scores.examples["image"].unique()))
    partial = Path(folder) / PARTIAL
    identity = {"scores": scores.summary, "examples": sha256(scores.examples.to_csv()), "batch_size": batch_size}
    with claimed(folder):
        maps, first = _maps_so_far(partial, plain(identity), len(scores.examples), encoder)
        if store is None:
            activations = _encode(encoder, images, numbers[first:], batch_size)
        else:
            activations = store.of_images(numbers[first:], batch_size)
        for count, batch in enumerate(_progress(activations, len(numbers), first), 1):
            _draw_maps(maps, sae, *batch, scores, encoder)
            if count % CHECKPOINT_EVERY == 0:
                progress = {"images": first + count * batch_size, "identity": plain(identity)}
                save_checkpoint(partial, {"maps": torch.from_numpy(maps)}, progress)
        drawn: dict[int, bytes] = {}
        if drawer is not None:
            drawn = drawer.draw(scores, Path(folder) / PARTIAL_ICONS)
            info["icons"] = drawer.settings(scores)
        icons = icon_table(scores.neurons["neuron"], crops(scores.examples, maps, images, encoder), drawn)
        pictures = thumbnails(images, numbers, alt_column, encoder)
        Pack.write(folder, info, scores.neurons, scores.examples, pictures, maps, scores.texts, icons=icons)
        partial.unlink(missing_ok=True)
        shutil.rmtree(Path(folder) / PARTIAL_ICONS, ignore_errors=True)
    return Pack.from_pretrained(folder)


def _encode(
    encoder: VisionEncoder, images: ImageDataset, numbers: Sequence[int], batch_size: int
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """Numbers of images and their activations ``[images, tokens, d_in]``, batch by batch."""

    def read(start: int) -> tuple[Sequence[int], list[Image.Image]]:
        batch = numbers[start : start + batch_size]
        return batch, [read_images(images, image, image + 1)[0] for image in batch]

    for batch, pictures in load_ahead(read, range(0, len(numbers), batch_size)):
        yield batch, encoder(pictures, batch)


def _maps_so_far(
    partial: Path, identity: dict[str, Any], examples: int, encoder: VisionEncoder
) -> tuple[np.ndarray, int]:
    """Maps ``[examples, patches]`` that a run with the same identity drew before it ended, and of how many images.

    Of tokens that have no place in the picture, ``[examples, tokens]``.
    """
    before = load_checkpoint(partial, "cpu")
    if before is not None and before[1]["identity"] == identity:
        logger.info("maps of %d images are there already", before[1]["images"])
        return before[0]["maps"].numpy(), before[1]["images"]
    rows = range(encoder.tokens_per_image)[encoder.patch_rows or slice(None)]
    return np.zeros((examples, len(rows)), dtype=np.uint8), 0


def _progress(
    activations: Iterable[tuple[Sequence[int], torch.Tensor]], total: int, first: int
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    with tqdm(total=total, initial=first, desc="maps", unit="image") as bar:
        for batch, v in activations:
            yield batch, v
            bar.update(len(batch))


def _draw_maps(
    maps: np.ndarray, sae: SAE | CBSAE, batch: Sequence[int], v: torch.Tensor, scores: Scores, encoder: VisionEncoder
) -> None:
    """Draws the examples of some images ``v`` into the maps; 255 is the neuron's largest activation."""
    examples, largest = scores.examples, scores.neurons["max"].to_numpy(copy=True)
    assert examples is not None  # as was checked
    active = sae.only_active(sae.encode_sparse(v.to(sae.b_dec.device)))
    values, owners = (part.cpu() for part in active)
    of_batch = examples[examples["image"].isin(batch)]
    for place, image in enumerate(batch):
        rows = of_batch[of_batch["image"] == image]
        neurons = rows["neuron"].to_numpy(copy=True)
        codes = torch.zeros(values.shape[1], sae.d_latent)
        codes.scatter_add_(1, owners[place], values[place].float())
        codes = codes[encoder.patch_rows or slice(None)]
        scaled = codes[:, neurons].detach().numpy().T / np.maximum(largest[neurons], 1e-12)[:, None]
        maps[rows.index] = np.clip(np.rint(scaled * 255), 0, 255)


def thumbnails(
    images: ImageDataset, ids: Sequence[int], alt_column: str | None, encoder: VisionEncoder
) -> pd.DataFrame:
    """Thumbnails of the examples as WebP, as the encoder sees them, with what the column says of them."""
    rows = []
    for image in ids:
        picture = encoder.show(read_images(images, int(image), int(image) + 1)[0], THUMBNAIL)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
        alt = _alt_text(images, int(image), alt_column) if alt_column else ""
        rows.append({"image": int(image), "webp": buffer.getvalue(), "alt": alt or f"probe image {image}",
                     "width": picture.width, "height": picture.height})  # fmt: skip
    return pd.DataFrame(rows)


def caption_column(images: ImageDataset, column: str | None = ALT_COLUMN) -> str | None:
    """The column with a description of each image, if it can be read, or None; only the default may be missing.

    Raises:
        ValueError: If there is no such column, or it holds records.
    """
    if column is None or not len(images):
        return None
    columns = list(getattr(images, "column_names", images[0]))
    if column not in columns:
        if column == ALT_COLUMN:
            return None
        raise ValueError(
            f"the images have no column {column!r} that says what they show; they have {', '.join(columns)}"
        )
    _alt_text(images, 0, column)
    return column


def _alt_text(images: ImageDataset, image: int, column: str) -> str:
    """The text of an image in a column, several captions joined; "" if there is none."""
    try:
        return "; ".join(words_in(images[image][column], class_names(images, column)))
    except ValueError as error:
        raise ValueError(f"the column {column!r} cannot say what an image shows: {error}") from error
