"""The SAEs of one layer, with its activations: the only place where studies of many layers get them from."""

import json
from collections.abc import Mapping
from functools import cached_property
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


class Layer:
    """One layer and selection of tokens of an encoder. What an earlier run has stored or trained is kept.

    Args:
        encoder: The encoder.
        images: The images that SAEs are trained on.
        source: Their description, see :func:`cbsae_hub.data.extraction.extract_activations`; so are errors.
        saes: Folder of all layers.
    """

    def __init__(self, encoder: VisionEncoder, images: ImageDataset, source: dict[str, Any], saes: Path):
        self.encoder, self._images, self._source = encoder, images, source
        self.folder = saes / Path(str(encoder.repo_id)).name / f"layer-{encoder.layer}-{encoder.tokens}"

    @cached_property
    def store(self) -> ActivationStore:
        """Activations of the images that SAEs are trained on."""
        return self._store(self._images, self._source)

    def rows(self, images: ImageDataset, source: dict[str, Any]) -> Tensor:
        """Activations of other images in memory, ``[images, tokens, d_in]``."""
        return all_rows(self._store(images, source))

    def sae(self, settings: Mapping[str, Any]) -> SAE:
        """The SAE of these settings, see :func:`trained_sae`, on the encoder's device."""
        decisive = SAETrainConfig.from_dict(settings).to_dict(defaults=False)
        return trained_sae(self.store, self.folder / f"sae-{key_of(decisive)}", settings).to(self.encoder.device)

    def _store(self, images: ImageDataset, source: dict[str, Any]) -> ActivationStore:
        return extract_activations(self.encoder, images, self.folder / f"images-{key_of(source)}", source=source)


def trained_sae(store: ActivationStore, output: Path, settings: Mapping[str, Any]) -> SAE:
    """The SAE in the folder; trained first if it is not there yet, or not to the end.

    Args:
        store: Activations to train on.
        output: Folder of the SAE.
        settings: Those of :class:`cbsae_hub.trainers.config.SAETrainConfig` that are not the default.

    Raises:
        ValueError: If a setting cannot be.
    """
    config = SAETrainConfig.from_dict(settings)
    if not (output / "training.json").is_file():
        config = config.replace(eval_every=config.steps, checkpoint_every=config.steps)
        train, heldout = store.holdout(config.heldout_fraction, config.seed)
        SAETrainer(config, train, heldout, output).train(resume=True)
    return SAE.from_pretrained(output)


def all_rows(store: ActivationStore) -> Tensor:
    """All activations of a store in memory, ``[images, tokens, d_in]`` in its dtype."""
    return store.read(0, len(store)).unflatten(0, (-1, store.tokens_per_image))


def key_of(*settings: Any) -> str:
    """Letters that stand for some settings in the name of a file or folder."""
    return sha256(json.dumps(plain(settings), sort_keys=True))[:12]


def random_directions(d_in: int, count: int, seed: int) -> Tensor:
    """Unit vectors that know nothing, ``[count, d_in]``."""
    drawn = torch.randn(count, d_in, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)
