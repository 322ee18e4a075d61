"""The SAEs of one layer, with its activations: the only place where studies of many layers get them from."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore, layer_folder
from cbsae_hub.data.extraction import ItemSource, extract_activations
from cbsae_hub.encoders.language import LanguageEncoder
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import claim, plain, sha256
from cbsae_hub.models import SAE
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.trainers.config import FREE_SETTINGS, SAETrainConfig
from cbsae_hub.trainers.loop import TRAINING_NAME
from cbsae_hub.trainers.sae.trainer import SAETrainer


class Layer:
    """One layer and selection of tokens of an encoder. What an earlier run has stored or trained is kept.

    Args:
        encoder: The encoder.
        images: The images that SAEs are trained on; of a language encoder, questions about them.
        source: Their description, see :func:`cbsae_hub.data.extraction.extract_activations`; so are errors.
        saes: Folder of all layers.
        batch: Images in a forward pass.
    """

    def __init__(
        self,
        encoder: VisionEncoder | LanguageEncoder,
        images: ImageDataset | ItemSource,
        source: dict[str, Any],
        saes: Path,
        batch: int = 256,
    ):
        self.encoder, self._images, self._source, self._batch = encoder, images, source, batch
        self.folder = layer_folder(saes / Path(str(encoder.repo_id)).name, encoder.layer, encoder.tokens)

    @cached_property
    def store(self) -> ActivationStore:
        """Activations of the images that SAEs are trained on."""
        return self._store(self._images, self._source)

    def rows(self, images: ImageDataset, source: dict[str, Any]) -> Tensor:
        """Activations of other images in memory, ``[images, tokens, d_in]``."""
        return all_rows(self._store(images, source))

    def sae(self, settings: Mapping[str, Any]) -> SAE:
        """The SAE of these settings, see :func:`train_or_read`, on the encoder's device."""
        config = SAETrainConfig.from_dict(settings)
        output = self.folder / f"sae-{key_of(config.to_dict(defaults=False))}"
        config = config.replace(eval_every=config.steps, checkpoint_every=config.steps)
        return train_or_read(config, self.store, output).to(self.encoder.device)

    def _store(self, images: ImageDataset | ItemSource, source: dict[str, Any]) -> ActivationStore:
        folder = self.folder / f"images-{key_of(source)}"
        return extract_activations(self.encoder, images, folder, source=source, batch_size=self._batch)


def train_or_read(
    config: SAETrainConfig, store: ActivationStore, output: Path, accelerator: Accelerator | None = None
) -> SAE:
    """The SAE of a study in its folder; trained first if it is not there yet, or not to the end.

    Args:
        config: The settings.
        store: Activations to train on.
        output: Folder of the SAE.
        accelerator: The run's; default a new one.

    Raises:
        OtherSettings: If the folder is of other settings or activations.
        ValueError: If a setting cannot be.
        Interrupted: If the process got SIGINT or SIGTERM; a checkpoint was saved.
    """
    decisive = {name: value for name, value in config.to_dict().items() if name not in FREE_SETTINGS}
    activations = {name: store.manifest[name] for name in ("encoder", "images", "num_images", "fingerprint")}
    claim(output, {"training": decisive, "activations": activations})
    if not (output / TRAINING_NAME).is_file():
        rows, heldout = store.holdout(config.heldout_fraction, config.seed)
        SAETrainer(config, rows, heldout, output, accelerator=accelerator).train(resume=True)
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
