"""Rows, examples and maps of concept neurons that were added after a pack was built."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics import NeuronActivity, cosine_cubed
from cbsae_hub.models import CBSAE
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.neurons.table import rows_of
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.build_pack import thumbnails
from cbsae_hub.scoring.examples import choose_examples
from cbsae_hub.scoring.report import activity_columns, name_columns
from cbsae_hub.words import name_key

NAMES = 5
BATCH = 256  # images at once


def extend_pack(
    pack: Pack,
    cb: CBSAE,
    activations: ActivationStore,
    images: ImageDataset,
    encoder: VisionEncoder,
    image_embeddings: Tensor,
    embed_texts: Callable[[list[str]], Tensor],
    alt_column: str | None = "caption",
) -> Pack:
    """A pack with rows, examples and patch maps of the concept neurons that the model has and the pack lacks.

    They are named by CLIP-Dissect with cosine-cubed similarity, whose scores, -1 to 1, do not depend on other neurons;
    those of the pack do, and cannot be told for a few neurons more. ``null_percentile`` is the share of all concepts
    that the judge finds to fit less than the one that the neuron was trained for. Everything else that is measured with
    more than these images stays empty. Rows of neurons that were there are left alone, although concepts that were
    added compete with them for the decoder's places.

    Args:
        pack: Pack of the model before; it stays as it is.
        cb: The model, with concepts added at the end.
        activations: Activations of its encoder for the images.
        images: The first ones of the pack's: image ``i`` of the pack is image ``i`` here.
        encoder: The encoder that the model explains: pictures are shown as it sees them.
        image_embeddings: The judge's unit embeddings of them, ``[images, e]``.
        embed_texts: Its unit embeddings of texts.
        alt_column: See :func:`build_pack`.

    Raises:
        ValueError: If the images are not those of the activations, or nothing was added.
    """
    if not len(images) == activations.num_images == len(image_embeddings):
        raise ValueError("activations, images and embeddings are not of the same images")
    first = len(pack.neurons) - cb.d_sae
    added = cb.concepts[first:]
    if not added:
        raise ValueError("the pack knows all concepts of this model")
    latents, tokens = _latents(cb, first, activations)
    # The vocabulary may hold an added concept in another spelling: it is one concept, which does not rival itself.
    concepts = list({name_key(name): name for name in (*pack.vocabulary, *added)}.values())
    fits = cosine_cubed(latents, image_embeddings.float() @ embed_texts(concepts).T)
    neurons = _rows(cb, first, added, concepts, fits, latents, tokens)
    examples = choose_examples(sparse.csc_matrix(latents.numpy()))
    largest = tokens.largest.clamp_min(1e-12)
    maps = _maps(cb, first, activations, examples, largest)[:, -pack.map_size :]  # older packs have CLS in it
    examples["neuron"] += len(pack.neurons)
    new = [int(image) for image in sorted(examples["image"].unique()) if not pack.has_image(int(image))]
    return pack.extended(neurons, examples, thumbnails(images, new, alt_column, encoder), maps)


@torch.no_grad()
def _read(cb: CBSAE, first: int, activations: ActivationStore, start: int, stop: int) -> Tensor:
    """Latents of the added neurons as the decoder reads them, ``[images, tokens, added]``."""
    tokens = activations.tokens_per_image
    x = activations.read(start * tokens, stop * tokens).to(cb.W_enc_cb)
    return cb.select_concepts(cb.concept_activations(x))[:, first:].unflatten(0, (-1, tokens))


def _latents(cb: CBSAE, first: int, activations: ActivationStore) -> tuple[Tensor, NeuronActivity]:
    """Mean latents of images, ``[images, added]``, and what the added neurons do on tokens."""
    activity, means = NeuronActivity(len(cb.concepts) - first), []
    for start in range(0, activations.num_images, BATCH):
        latents = _read(cb, first, activations, start, min(start + BATCH, activations.num_images))
        means.append(latents.mean(1))
        values = latents.flatten(0, 1)
        activity.update(values, torch.arange(values.shape[1]).expand(values.shape))
    return torch.cat(means), activity


def _rows(
    cb: CBSAE,
    first: int,
    added: Sequence[str],
    concepts: Sequence[str],
    fits: Tensor,
    latents: Tensor,
    tokens: NeuronActivity,
) -> pd.DataFrame:
    """The neuron table's rows."""
    best = fits.topk(min(NAMES, len(concepts)), dim=1)
    density = (latents > 0).double().mean(0)
    own = fits[torch.arange(len(added)), torch.tensor([concepts.index(name) for name in added])]
    return rows_of(
        {
            "neuron": np.arange(len(added)) + cb.d_sae + first,
            "kind": "cb",
            "score": best.values[:, 0].numpy(),
            "null_percentile": (fits < own[:, None]).double().mean(1).numpy(),
            **name_columns(concepts, best.indices, best.values, density > 0),
            "group": cb.group_of[-len(added) :].numpy(),
            **activity_columns(tokens.compute(), density),
            "designated": list(added),
            "designated_score": own.numpy(),
            "added": True,
        }
    )


def _maps(cb: CBSAE, first: int, activations: ActivationStore, examples: pd.DataFrame, largest: Tensor) -> np.ndarray:
    """Maps of the examples' activations, ``[examples, tokens]`` uint8; 255 is the neuron's largest activation."""
    maps = np.zeros((len(examples), activations.tokens_per_image), dtype=np.uint8)
    for image, part in examples.groupby("image"):
        latents = _read(cb, first, activations, int(image), int(image) + 1)[0] / largest
        maps[part.index] = (latents[:, part["neuron"].to_numpy(copy=True)].T * 255).round().clamp(0, 255).numpy()
    return maps
