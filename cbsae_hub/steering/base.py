"""The base of all steerers: a model with a tower, an SAE at one of the tower's blocks, and a steering per image."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig
from typing_extensions import Self

from cbsae_hub.hub.locate import Located
from cbsae_hub.steering.edits import AnySteering, PerImage, per_image
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.steering.loading import load_sae, locate_whole
from cbsae_hub.steering.neurons import AnyPack
from cbsae_hub.steering.tower import SteeredTower


class Steerer(ABC):
    """A model with a vision tower, or a text encoder, and an SAE at one of its blocks.

    Names and percentiles of neurons are looked up once, where a steering comes in. Several threads may use one steerer:
    a steering serves the thread that asked for it.

    Args:
        model: Model or pipeline with the tower, see :func:`cbsae_hub.encoders.site.find_blocks`.
        config: Config of the tower.
        sae: SAE of the tower's activations; moved to the tower's device.
        pack: Names and percentiles of the SAE's neurons, or None.
        layer: Block at whose output the SAE works; default the SAE's own.

    Attributes:
        tower: The tower with the SAE.
        repo_id: Folder or Hub id from which the model was loaded, or None.

    Raises:
        ValueError: If the SAE or the pack does not fit.
    """

    kind: ClassVar[str] = "vision"
    """Kind of the tower, see :func:`cbsae_hub.encoders.towers.find_tower`."""
    repo_id: str | None = None
    _located: Located | None = None  # shared by all that steer the same model: a folder is hashed once

    def __init__(self, model: Any, config: PreTrainedConfig, sae: SteerableSAE, pack: AnyPack, layer: int | None):
        self._steered = model, config
        self._place(sae, pack, layer)

    def _place(self, sae: SteerableSAE, pack: AnyPack, layer: int | None) -> None:
        self.tower = SteeredTower(*self._steered, sae, pack, layer, self.kind)

    def with_sae(self, sae: SteerableSAE, pack: AnyPack = None, layer: int | None = None) -> Self:
        """The same model with another SAE, by default at that one's own block; see the class."""
        other = copy.copy(self)
        other._place(sae, pack, layer)
        return other

    @property
    def revision(self) -> str | None:
        """Version of the loaded model: its commit, or the hash of its folder's weights; or None."""
        return None if self._located is None else self._located.revision

    @abstractmethod
    def _see(self, images: Sequence[Any]) -> Tensor:
        """Runs the tower on one batch; returns what the rest of the model reads of it, ``[images, ...]``."""

    @torch.no_grad()
    def activations(self, images: Sequence[Any]) -> Tensor:
        """Activations at the SAE's block, ``[images, tokens, d]``, of one batch of images, or of prompts."""
        return self.tower.activations(lambda: self._see(images))

    def _resolved(self, steering: PerImage, images: int) -> list[AnySteering | None]:
        return per_image(steering, images, self.tower.neurons, self.tower.reads)


class SteeredGenerator(Steerer):
    """A steerer of a model that says or draws what its vision tower sees."""

    what: ClassVar[str]
    """The model in words, for errors."""
    index: ClassVar[str]
    """The file that every such model has."""

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        sae: SteerableSAE | str | Path,
        pack: AnyPack = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        layer: int | None = None,
        beside: str | Path | None = None,
    ) -> Self:
        """Loads a model from a folder or the Hub: safetensors only, no remote code, the PIL image processor.

        Args:
            repo_id: Folder or Hub id.
            sae: An SAE, or its folder or Hub id.
            pack: See the class.
            device: Device of the model and the SAE.
            dtype: Data type of the model; default float32 on a CPU, float16 elsewhere, or an original LLaVA
                checkpoint's own.
            revision: Branch, tag or commit of a Hub repository; of a folder its ``sha256:...``, which is checked.
            layer: See the class.
            beside: A model folder next to which this model may lie, see :func:`cbsae_hub.models.resolve_id`.

        Raises:
            OSError: If there is no such model; says what to try.
            ValueError: If it is a model of another kind or revision or lacks weights, or the SAE does not fit.
        """
        located = locate_whole(cls.what, repo_id, cls.index, revision, beside)
        steerer = cls(**cls._load(located, torch.device(device), dtype), sae=load_sae(sae), pack=pack, layer=layer)
        steerer.repo_id, steerer._located = str(repo_id), located
        return steerer

    @classmethod
    @abstractmethod
    def _load(cls, located: Located, device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
        """Model and processor, by the names that the class has for them."""

    def _read(self, images: Sequence[Image.Image], steerings: Sequence[AnySteering | None]) -> Tensor:
        """The tower's output for the rest of the model, of one batch of images, with resolved steerings."""
        return self.tower.run(lambda: self._see(images), steerings)

    def _batches(self, images: Sequence[Image.Image], steering: PerImage, batch: int) -> Iterator[tuple[slice, Tensor]]:
        """Places of the images of each batch, and what the rest of the model reads of them."""
        steerings = self._resolved(steering, len(images))
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            yield part, self._read(images[part], steerings[part])
