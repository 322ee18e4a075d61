"""A tower with an SAE at one of its blocks: runs it steered, and sees to it that steering has an effect."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from cbsae_hub.encoders.families import prefix_tokens
from cbsae_hub.encoders.site import EditError, ResidualSite, run_blocks
from cbsae_hub.steering.edits import AnySteering, Steered, steer
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.steering.neurons import AnyPack, Neurons


class Stopped(RuntimeError):
    """The answer is no longer wanted."""


class SteeredTower:
    """A vision tower, or a text encoder, with an SAE at one of its blocks.

    Steering serves the calling thread only, so that requests may run side by side. The arguments are those of
    :class:`cbsae_hub.steering.base.Steerer`, and the kind of tower: "vision" or "text".

    Raises:
        ValueError: If the layer is not known or does not exist, the SAE has another width, or the pack is of another.
    """

    def __init__(
        self,
        model: Any,
        config: PreTrainedConfig,
        sae: SteerableSAE,
        pack: AnyPack = None,
        layer: int | None = None,
        kind: str = "vision",
    ):
        layer = getattr(sae, "layer", None) if layer is None else layer
        if layer is None:
            raise ValueError("the SAE does not say at which layer it works: give layer=")
        self.site = ResidualSite.find(model, layer, kind)
        if sae.d_in != config.hidden_size:
            raise ValueError(
                f"the SAE explains activations of width {sae.d_in}, {self.site.name} puts out {config.hidden_size}: "
                "it is an SAE of another encoder"
            )
        self.reads = {"vision": "image", "text": "prompt"}[kind]
        self.prefix = prefix_tokens(config) if kind == "vision" else 0
        self.neurons = Neurons(sae, pack)
        self.sae = sae.to(next(self.site.block.parameters()).device).eval()
        self.layer = self.site.layer
        self._model = model

    @torch.no_grad()
    def activations(self, forward: Callable[[], Any]) -> Tensor:
        """Activations at the SAE's block while ``forward`` runs the tower once, ``[images, tokens, d]``."""
        return self.site.read(forward)

    @torch.no_grad()
    def onward(self, v: Tensor, last: int | None = None) -> Tensor:
        """Runs the blocks after the SAE's on activations ``[images, tokens, d]``, up to block ``last`` or the end."""
        return run_blocks(self._model, v, self.layer + 1, last)

    def steer(self, steerings: Sequence[AnySteering | None], v: Tensor) -> Steered:
        """Steers activations at the SAE's block, ``[images, tokens, d]``, by one resolved steering per image."""
        return steer(steerings, v, self.sae, self.prefix)

    @torch.no_grad()
    def run(self, forward: Callable[[], Tensor], steerings: Sequence[AnySteering | None]) -> Tensor:
        """Runs the tower once, steered, by one resolved steering per image; None leaves an image alone.

        Returns:
            What ``forward`` returns steered: ``[images, ...]``, what the rest of the model reads of the tower.

        Raises:
            EditError: If a steering asks for a change and has no effect.
        """
        if all(steering is None for steering in steerings):
            return forward()
        plain, changes = forward(), []

        def edit(v: Tensor) -> Tensor:
            edited = self.steer(steerings, v)
            changes.append(edited.changes.any(-1))
            return edited.activations

        with self.site.edit(edit, allow_identity=True):
            steered = forward()
        self.require_effect(plain, steered, changes[-1], steerings)
        return steered

    def require_effect(
        self, plain: Tensor, steered: Tensor, changes: Tensor, steerings: Sequence[AnySteering | None]
    ) -> None:
        """Raises EditError if an image's steering asks for a change, ``changes [images]`` bool, and has no effect.

        ``plain`` and ``steered`` are what the model reads of the tower without and with it, ``[images, ...]``.
        """
        unchanged = (plain == steered).flatten(1).all(1)
        for image in (changes & unchanged).nonzero().flatten().tolist():
            raise EditError(
                f"steering had no effect: {str(steerings[image]):.200} at {self.site.name} leaves what the model reads "
                f"of {self.reads} {image} as it was. Are the tokens steered that it reads?"
            )
