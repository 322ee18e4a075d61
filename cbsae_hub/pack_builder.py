"""Computes a model's pack: two passes over the probe images, one to score, one to draw the maps of the examples."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import sparse
from tqdm import tqdm

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.images import image_batches, read_pictures
from cbsae_hub.metrics.activity import NeuronActivity, Reconstruction, status
from cbsae_hub.metrics.dissect import Dissector
from cbsae_hub.metrics.ground_truth import average_precisions, label_matrix
from cbsae_hub.models import SAE, folder_revision
from cbsae_hub.pack import Pack
from cbsae_hub.vision.clip_like import ClipLike
from cbsae_hub.vision.encoder import VisionEncoder, to_rgb

logger = logging.getLogger(__name__)

STRIP_SIZES = {"top": 9, "p75": 4, "p50": 4, "p25": 4}
QUANTILES = {"p75": 0.75, "p50": 0.50, "p25": 0.25}
NAMES = 5
THUMBNAIL = 128  # pixels of the longer side, at most
CLEAR_TRUTH = 0.5  # average precision from which a neuron clearly detects a label


@dataclass
class _Pass:
    """What the first pass over the probe images gives."""

    dissector: Dissector
    activity: dict[str, np.ndarray]
    reconstruction: dict[str, float]
    latents: sparse.csc_matrix  # [images, neurons], mean over tokens


def build_pack(
    sae: SAE,
    encoder: VisionEncoder,
    judge: ClipLike,
    images: Any,
    concepts: ConceptSet,
    folder: str | Path,
    *,
    source: dict[str, Any],
    truth_columns: Sequence[str] = (),
    alt_column: str | None = None,
    top_k: int = 100,
    batch_size: int = 64,
) -> Pack:
    """Names the neurons, scores the names, picks examples, and writes the pack beside the model.

    Args:
        sae: The model.
        encoder: Whose activations it explains, with the SAE's layer and tokens.
        judge: Embeds probe images and concepts for CLIP-Dissect.
        images: Map-style dataset with a column ``image``.
        concepts: The vocabulary.
        folder: The model's folder.
        source: What the images are (id, split): kept in ``pack.json``.
        truth_columns: Columns with ground truth: ``background`` (a name) or ``objects.name`` (names in a list).
        alt_column: Column with a description of each image.
        top_k: Images that a neuron is named by. CLIP-Dissect's 100 suits 50,000 images; with fewer, a concept may be
            on fewer images than that, and most of a neuron's would be images on which it is silent.
        batch_size: Images a forward pass.

    Returns:
        The pack as read back.

    Raises:
        ValueError: If there are no images, or the encoder does not fit the SAE.
    """
    if encoder.d_in != sae.d_in:
        raise ValueError(f"the encoder gives activations of width {encoder.d_in}, the SAE wants {sae.d_in}")
    if not len(images):
        raise ValueError("there are no probe images")
    texts = judge.embed_texts(concepts.concepts)
    first = _score(sae, encoder, judge, images, Dissector(sae.d_sae, texts, top_k=top_k), batch_size)
    neurons = _name(first, concepts)
    neurons["group"] = sae.group_of.cpu().numpy()
    agreement = _judge_by_truth(neurons, first.latents, images, truth_columns, concepts)
    examples = _choose_examples(first.latents)
    maps = _draw_maps(sae, encoder, images, examples, first.activity["max"], batch_size)
    states = neurons["status"].value_counts()
    info = {
        "model": {"class": type(sae).__name__, "d_in": sae.d_in, "d_sae": sae.d_sae, "activation": sae.activation,
                  "k": sae.k, "group_sizes": sae.group_sizes, "revision": _revision_of(folder)},
        "encoder": encoder.provenance(),
        "judge": {"id": judge.repo_id, "revision": judge.revision},
        "images": {**source, "n": len(images)},
        "concepts": {"name": concepts.name, "sha256": concepts.sha256, "names": list(concepts.concepts)},
        "naming": {"method": "soft_wpmi", "top_k": top_k, "pool": "mean"},
        "grid": list(encoder.grid) if encoder.tokens == "patches" else None,
        "metrics": {
            **first.reconstruction,
            **{f"{state}_share": float(states.get(state, 0) / len(neurons)) for state in ("dead", "rare", "dense")},
            "name_coverage": neurons["name"].nunique() / len(concepts),
            **agreement,
        },
    }  # fmt: skip
    pictures = _pictures(images, sorted(examples["image"].unique()), alt_column)
    Pack.write(folder, info, neurons, examples, pictures, maps, texts.numpy())
    return Pack.from_pretrained(folder)


def _tokens(
    sae: SAE, encoder: VisionEncoder, pictures: list[Image.Image]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations ``[images, tokens, d_in]`` and their active latents ``[images, tokens, K]``: values and neurons."""
    x = encoder(pictures)
    return x, *sae.encode_sparse(x)


@torch.no_grad()
def _score(
    sae: SAE, encoder: VisionEncoder, judge: ClipLike, images: Any, dissector: Dissector, batch_size: int
) -> _Pass:
    activity, reconstruction = NeuronActivity(sae.d_sae), Reconstruction(sae.d_in)
    blocks = []
    with tqdm(total=len(images), desc="score", unit="image") as bar:
        for ids, pictures in image_batches(images, batch_size):
            x, values, owners = _tokens(sae, encoder, pictures)
            activity.update(values.flatten(0, 1), owners.flatten(0, 1))
            decoded = sae.decode_sparse(values, owners)
            active = (values > 0).sum(-1)
            reconstruction.update(x.flatten(0, 1), decoded.flatten(0, 1), active.flatten())
            pooled = torch.zeros(len(ids), sae.d_sae).scatter_add_(1, owners.flatten(1), values.float().flatten(1))
            pooled /= x.shape[1]
            dissector.update(pooled, judge.embed_images(pictures), torch.tensor(ids))
            blocks.append(sparse.csr_matrix(pooled.numpy()))
            bar.update(len(ids))
    figures = {name: value.numpy() for name, value in activity.compute().items()}
    return _Pass(dissector, figures, reconstruction.compute(), sparse.vstack(blocks).tocsc())


def _name(first: _Pass, concepts: ConceptSet) -> pd.DataFrame:
    """The neuron table but for groups and truth."""
    scores = first.dissector.compute()
    best, chosen = scores.topk(min(NAMES, len(concepts)), dim=1)
    null = first.dissector.null_scores().sort().values
    percentile = torch.searchsorted(null, best[:, 0].contiguous()) / len(null)
    density = np.diff(first.latents.indptr) / first.latents.shape[0]
    rows = []
    for neuron in range(len(scores)):
        state = status(float(first.activity["density"][neuron]), float(density[neuron]))
        named = state != "dead"
        names = [concepts[i] for i in chosen[neuron].tolist()] if named else []
        rows.append(
            {
                "neuron": neuron,
                "kind": "sae",
                "name": names[0] if named else None,
                "score": float(best[neuron, 0]) if named else 0.0,
                "null_percentile": float(percentile[neuron]) if named else 0.0,
                "names": names,
                "scores": best[neuron].tolist() if named else [],
                "density": float(density[neuron]),
                "token_density": float(first.activity["density"][neuron]),
                **{key: float(first.activity[key][neuron]) for key in ("max", "p99", "p50")},
                "status": state,
            }
        )
    return pd.DataFrame(rows)


def _judge_by_truth(
    neurons: pd.DataFrame, latents: sparse.csc_matrix, images: Any, columns: Sequence[str], concepts: ConceptSet
) -> dict[str, float]:
    """Adds the label that each neuron predicts best, and says how often its name is that label.

    Only labels of the vocabulary count: others could not have been named.
    """
    neurons["truth"], neurons["truth_ap"], neurons["truth_agrees"] = None, np.nan, None
    if not columns:
        return {}
    known = set(concepts.concepts)
    labels, names = label_matrix([row & known for row in _label_sets(images, columns)])
    precisions = np.nan_to_num(average_precisions(latents, labels))
    best = precisions.argmax(1)
    named = neurons["name"].notna().to_numpy()
    neurons.loc[named, "truth"] = np.array(names, dtype=object)[best[named]]
    neurons.loc[named, "truth_ap"] = precisions.max(1)[named]
    agrees = (neurons["name"] == neurons["truth"]).to_numpy()
    neurons.loc[named, "truth_agrees"] = agrees[named]
    clear = named & (precisions.max(1) >= CLEAR_TRUTH)
    covered = (precisions[named] >= CLEAR_TRUTH).any(0)
    return {
        "name_agreement": float(agrees[named].mean()) if named.any() else float("nan"),
        "name_agreement_clear": float(agrees[clear].mean()) if clear.any() else float("nan"),
        "clear_share": float(clear.sum() / max(1, named.sum())),
        "labels_detected": float(covered.mean()),
        "best_ap_mean": float(precisions[named].max(1).mean()) if named.any() else float("nan"),
    }


def _label_sets(images: Any, columns: Sequence[str]) -> list[set[str]]:
    """Each image's labels, from columns of names or of lists of records with names."""
    sets: list[set[str]] = [set() for _ in range(len(images))]
    for column in columns:
        name, _, field = column.partition(".")
        for row, value in enumerate(images[name]):
            found = [item[field] for item in value] if field else [value]
            sets[row] |= {label for label in found if label is not None}
    return sets


def _choose_examples(latents: sparse.csc_matrix) -> pd.DataFrame:
    """Top images and images around the quantiles of those on which a neuron is active; no image twice."""
    rows = []
    for neuron in range(latents.shape[1]):
        start, stop = latents.indptr[neuron : neuron + 2]
        values, ids = latents.data[start:stop], latents.indices[start:stop]
        order = np.lexsort((ids, -values))
        taken: set[int] = set()
        for strip, size in STRIP_SIZES.items():
            middle = 0 if strip == "top" else int((1 - QUANTILES[strip]) * len(order)) - size // 2
            places = [place for place in range(max(0, middle), min(len(order), max(0, middle) + size))]
            places = [place for place in places if place not in taken]
            taken.update(places)
            rows += [
                (neuron, strip, rank, ids[order[place]], values[order[place]]) for rank, place in enumerate(places)
            ]
    frame = pd.DataFrame(rows, columns=["neuron", "strip", "rank", "image", "activation"])
    return frame.astype({"neuron": "int32", "rank": "int16", "image": "int32", "activation": "float32"})


def _draw_maps(
    sae: SAE, encoder: VisionEncoder, images: Any, examples: pd.DataFrame, largest: np.ndarray, batch_size: int
) -> np.ndarray:
    """Where the neuron of each example fires, ``[examples, tokens]`` uint8, 255 being its largest activation."""
    maps = np.zeros((len(examples), encoder.tokens_per_image), dtype=np.uint8)
    owners_of = {image: part for image, part in examples.groupby("image")[["neuron"]]}
    with tqdm(total=len(images), desc="maps", unit="image") as bar:
        for ids, pictures in image_batches(images, batch_size):
            _, values, owners = _tokens(sae, encoder, pictures)
            for place, image in enumerate(ids):
                if (wanted := owners_of.get(image)) is not None:
                    codes = torch.zeros(values.shape[1], sae.d_sae).scatter_add_(
                        1, owners[place], values[place].float()
                    )
                    neurons = wanted["neuron"].to_numpy()
                    scaled = codes[:, neurons].detach().numpy().T / np.maximum(largest[neurons], 1e-12)[:, None]
                    maps[wanted.index] = np.clip(np.rint(scaled * 255), 0, 255)
            bar.update(len(ids))
    return maps


def _pictures(images: Any, ids: Sequence[int], alt_column: str | None) -> pd.DataFrame:
    """Thumbnails of the examples as WebP."""
    rows = []
    for image in ids:
        picture = to_rgb(read_pictures(images, int(image), int(image) + 1)[0])
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=88)
        alt = str(images[int(image)][alt_column]) if alt_column else f"probe image {image}"
        rows.append({"image": int(image), "webp": buffer.getvalue(), "alt": alt,
                     "width": picture.width, "height": picture.height})  # fmt: skip
    return pd.DataFrame(rows)


def _revision_of(folder: str | Path) -> str | None:
    return folder_revision(folder) if any(Path(folder).glob("*model*.safetensors")) else None
