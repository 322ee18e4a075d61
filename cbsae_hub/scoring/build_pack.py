"""Computes a model's pack: two passes over the probe images, one to score, one to draw the maps of the examples."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm import tqdm

from cbsae_hub.data.images import image_batches, read_pictures
from cbsae_hub.data.labels import class_names, words_in
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import plain
from cbsae_hub.models import CBSAE, SAE, folder_revision
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.scoring import NeuronScorer, Scores

STRIP_SIZES = {"top": 9, "p75": 4, "p50": 4, "p25": 4, "random": 4}  # random last: it avoids the others' images
QUANTILES = {"p75": 0.75, "p50": 0.50, "p25": 0.25}
ALT_COLUMN = "caption"
THUMBNAIL = 128  # pixels of the longer side, at most
WEBP_QUALITY = 84  # a ninth smaller than at 88, and nobody sees it


def build_pack(
    scorer: NeuronScorer,
    images: Any,
    folder: str | Path,
    *,
    source: dict[str, Any],
    alt_column: str | None = ALT_COLUMN,
    batch_size: int = 64,
    steered: Scores | None = None,
) -> Pack:
    """Scores the neurons, picks examples, and writes the pack beside the model.

    Args:
        scorer: With model, encoder, judge, concepts and truth.
        images: Map-style dataset with a column ``image``.
        folder: The model's folder.
        source: What the images are (id, split): kept in ``pack.json``.
        alt_column: Column with a description of each image, or several; None for none. The default need not be there.
        batch_size: Images a forward pass.
        steered: Earlier scores whose steerability goes into the pack.

    Returns:
        The pack as read back.

    Raises:
        ValueError: If there is no such column of descriptions, or it holds records; see also :meth:`NeuronScorer.run`
            and :meth:`Scores.with_steerability_of`.
    """
    alt_column = _checked_column(images, alt_column)  # better told now than after the scores
    sae, encoder = scorer.sae, scorer.encoder
    scorer.run(images, batch_size)
    scores = scorer.results()
    if steered is not None:
        scores = scores.with_steerability_of(steered)
    examples = choose_examples(scorer.latents())
    maps = _draw_maps(sae, encoder, images, examples, scores.neurons["max"].to_numpy(copy=True), batch_size)
    vocabulary = next(iter(scorer.concepts.values()))
    facts = {name: scores.summary[name] for name in ("model", "encoder", "judge", "naming")}
    facts["model"]["revision"] = _revision_of(folder)
    info = {
        **facts,
        "images": {**source, "n": len(images)},
        "concepts": {"name": vocabulary.name, "sha256": vocabulary.sha256, "names": list(vocabulary.concepts)},
        "grid": list(encoder.grid) if encoder.tokens == "patches" else None,
        "scores": plain({name: part for name, part in scores.summary.items() if name not in facts}),
    }
    pictures = thumbnails(images, sorted(examples["image"].unique()), alt_column)
    texts = next(iter(scorer.texts.values()))
    Pack.write(folder, info, scores.neurons, examples, pictures, maps, texts.numpy())
    return Pack.from_pretrained(folder)


def choose_examples(latents: sparse.csc_matrix) -> pd.DataFrame:
    """Images of every strip, of those on which a neuron is active; see :func:`_places`."""
    rows = []
    for neuron in range(latents.shape[1]):
        start, stop = latents.indptr[neuron : neuron + 2]
        values, ids = latents.data[start:stop], latents.indices[start:stop]
        values, ids = values[values > 0], ids[values > 0]  # signed concept neurons are stored for every image
        order = np.lexsort((ids, -values))
        taken: set[int] = set()
        for strip in STRIP_SIZES:
            places = _places(strip, neuron, len(order), taken)
            taken.update(places)
            rows += [
                (neuron, strip, rank, ids[order[place]], values[order[place]]) for rank, place in enumerate(places)
            ]
    frame = pd.DataFrame(rows, columns=["neuron", "strip", "rank", "image", "activation"])
    return frame.astype({"neuron": "int32", "rank": "int16", "image": "int32", "activation": "float32"})


def _places(strip: str, neuron: int, active: int, taken: set[int]) -> list[int]:
    """Which images a strip shows, as places among those on which the neuron is active, strongest first.

    Args:
        strip: Which. "random" leaves out images of the other strips only if enough are left.
        neuron: Its number is the seed of "random".
        active: On how many images it is active.
        taken: Places of earlier strips.
    """
    size = STRIP_SIZES[strip]
    if strip == "random":
        others = [place for place in range(active) if place not in taken]
        pool = others if len(others) >= size else range(active)
        return sorted(np.random.default_rng(neuron).choice(pool, min(size, active), replace=False).tolist())
    start = 0 if strip == "top" else max(0, int((1 - QUANTILES[strip]) * active) - size // 2)
    return [place for place in range(start, min(active, start + size)) if place not in taken]


def _draw_maps(
    sae: SAE | CBSAE, encoder: VisionEncoder, images: Any, examples: pd.DataFrame, largest: np.ndarray, batch_size: int
) -> np.ndarray:
    """Where the neuron of each example fires, ``[examples, tokens]`` uint8, 255 being its largest activation."""
    maps = np.zeros((len(examples), encoder.tokens_per_image), dtype=np.uint8)
    owners_of = {image: part for image, part in examples.groupby("image")[["neuron"]]}
    with tqdm(total=len(images), desc="maps", unit="image") as bar:
        for ids, pictures in image_batches(images, batch_size):
            active = sae.only_active(sae.encode_sparse(encoder(pictures, list(ids))))
            values, owners = (part.cpu() for part in active)
            for place, image in enumerate(ids):
                if (wanted := owners_of.get(image)) is not None:
                    codes = torch.zeros(values.shape[1], sae.d_latent).scatter_add_(
                        1, owners[place], values[place].float()
                    )
                    neurons = wanted["neuron"].to_numpy(copy=True)
                    scaled = codes[:, neurons].detach().numpy().T / np.maximum(largest[neurons], 1e-12)[:, None]
                    maps[wanted.index] = np.clip(np.rint(scaled * 255), 0, 255)
            bar.update(len(ids))
    return maps


def thumbnails(images: Any, ids: Sequence[int], alt_column: str | None) -> pd.DataFrame:
    """Thumbnails of the examples as WebP, with what the column says of them."""
    rows = []
    for image in ids:
        picture = read_pictures(images, int(image), int(image) + 1)[0]
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
        alt = _alt_text(images, int(image), alt_column) if alt_column else ""
        rows.append({"image": int(image), "webp": buffer.getvalue(), "alt": alt or f"probe image {image}",
                     "width": picture.width, "height": picture.height})  # fmt: skip
    return pd.DataFrame(rows)


def _checked_column(images: Any, column: str | None) -> str | None:
    """A column of descriptions that is there and can be read; None if there is none and none was asked for."""
    if column is None or not len(images):
        return None
    there = list(getattr(images, "column_names", images[0]))
    if column not in there:
        if column == ALT_COLUMN:
            return None
        raise ValueError(f"the images have no column {column!r} that says what they show; they have {', '.join(there)}")
    _alt_text(images, 0, column)
    return column


def _alt_text(images: Any, image: int, column: str) -> str:
    """What a column says of an image, several captions joined; "" if nothing."""
    try:
        return "; ".join(words_in(images[image][column], class_names(images, column)))
    except ValueError as error:
        raise ValueError(f"the column {column!r} cannot say what an image shows: {error}") from error


def _revision_of(folder: str | Path) -> str | None:
    return folder_revision(folder) if any(Path(folder).glob("*model*.safetensors")) else None
