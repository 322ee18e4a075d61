"""The SAE of one layer, with the activations that it was trained on: what studies of many layers ask for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import plain, sha256
from cbsae_hub.models import SAE
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.trainer import SAETrainer


def stored_activations(
    encoder: VisionEncoder, images: ImageDataset, source: dict[str, Any], folder: Path
) -> ActivationStore:
    """Activations of images at the encoder's layer and tokens; what an earlier run has stored is kept.

    Args:
        encoder: The encoder.
        images: The images.
        source: Their description, see :func:`cbsae_hub.data.extraction.extract_activations`; so are errors.
        folder: Folder of the stores; each layer, selection of tokens and set of images has its own.
    """
    return extract_activations(encoder, images, folder, source=source)


def sae_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The folder in a layer's for the SAE of these settings, which its name stands for."""
    return folder / f"sae-{sha256(json.dumps(plain(settings), sort_keys=True))[:12]}"


def trained_sae(store: ActivationStore, output: Path, settings: Mapping[str, Any]) -> SAE:
    """The SAE in the folder; trained first if it is not there yet, or not to the end.

    Args:
        store: Activations to train on.
        output: Folder of the SAE, see :func:`sae_folder`.
        settings: Those of :class:`cbsae_hub.trainers.config.SAETrainConfig` that are not the default.

    Raises:
        ValueError: If a setting cannot be.
    """
    config = SAETrainConfig.from_dict(settings)
    if not (output / "training.json").is_file():
        steps = config.steps
        config = config.replace(eval_every=steps, checkpoint_every=steps)
        train, heldout = store.holdout(config.heldout_fraction, config.seed)
        SAETrainer(config, train, heldout, output).train(resume=True)
    return SAE.from_pretrained(output)


def all_rows(store: ActivationStore) -> Tensor:
    """All activations of a store in memory, ``[images, tokens, d_in]`` in its dtype."""
    return store.read(0, len(store)).unflatten(0, (-1, store.tokens_per_image))


def random_directions(d_in: int, count: int, seed: int) -> Tensor:
    """Unit vectors that know nothing, ``[count, d_in]``."""
    drawn = torch.randn(count, d_in, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)
