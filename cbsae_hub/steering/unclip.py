"""Stable unCLIP draws what its image encoder sees after a change of latents in it."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

from cbsae_hub.encoders.families import pool_clip
from cbsae_hub.encoders.vision import preprocess, require_images
from cbsae_hub.encoders.weights import alone
from cbsae_hub.hub.locate import Located
from cbsae_hub.lazy import needed
from cbsae_hub.models import checks
from cbsae_hub.steering.base import SteeredGenerator
from cbsae_hub.steering.drawing import asking, generators, one_call, plan, require_drawable
from cbsae_hub.steering.edits import PerImage
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.steering.loading import default_dtype
from cbsae_hub.steering.neurons import AnyPack

with needed("diffusers", "drawing"):
    from diffusers import StableUnCLIPImg2ImgPipeline


class UnclipSteerer(SteeredGenerator):
    """A Stable unCLIP pipeline with an SAE at a block of its image encoder.

    An edit acts at its block; what follows runs on to the image embedding, the one thing by which the image conditions
    the drawing. ``from_pretrained`` takes for instance "sd2-community/stable-diffusion-2-1-unclip-small".

    Args:
        pipeline: The pipeline.
        sae: SAE or concept bottleneck SAE of the image encoder's activations; moved to the encoder's device.
        pack: NeuronTable or Pack with the neurons' names and percentiles, or None.
        layer: The block at whose output the SAE works; default the SAE's own.

    Raises:
        ValueError: If the SAE does not fit.
    """

    what, index = "The unCLIP pipeline", "model_index.json"

    def __init__(
        self, pipeline: StableUnCLIPImg2ImgPipeline, sae: SteerableSAE, pack: AnyPack = None, layer: int | None = None
    ):
        self.pipeline = cast(Any, pipeline)  # its parts are attributes that its class does not declare
        self.encoder = self.pipeline.image_encoder.eval().requires_grad_(False)
        super().__init__(pipeline, self.encoder.config, sae, pack, layer)

    @classmethod
    def _load(cls, located: Located, device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
        source = located.pretrained
        dtype = dtype or default_dtype(device)
        with alone:
            pipeline: Any = StableUnCLIPImg2ImgPipeline.from_pretrained(**source, dtype=dtype, use_safetensors=True)
        pipeline.feature_extractor = AutoImageProcessor.from_pretrained(
            **source, subfolder="feature_extractor", backend="pil"
        )
        return {"pipeline": pipeline.to(device)}

    @torch.no_grad()
    def image_embeds(self, images: Sequence[Image.Image], steering: PerImage = None) -> Tensor:
        """The embeddings by which images condition the drawing: ``[images, d_projection]``, one batch.

        Raises:
            ValueError: See :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the embedding of its image as it was.
        """
        return self._read(images, self._resolved(steering, len(images)))

    @torch.no_grad()
    def embeds_of(self, v: Tensor) -> Tensor:
        """The :meth:`image_embeds` that activations at the SAE's block, ``[images, tokens, d]``, lead to."""
        return pool_clip(self.encoder, self.tower.onward(v.to(self.encoder.dtype)))

    def generate(
        self,
        images: Sequence[Image.Image],
        steering: PerImage = None,
        seeds: Sequence[int] = (0,),
        num_inference_steps: int = 20,
        guidance_scale: float = 10.0,
        batch: int = 8,
        stop: Callable[[], bool] | None = None,
        noise_level: int = 0,
    ) -> list[Image.Image]:
        """Draws each image anew, once per seed.

        All noise of a drawing (of the start, of the embedding, of a scheduler that adds some) comes from one generator
        on the CPU, made from its seed: drawings of one seed start alike, whatever the steering, batch or device.

        Args:
            images: PIL images of any mode.
            steering: One for all images or one per image; None steers nothing.
            seeds: Drawings of each image.
            num_inference_steps: Denoising steps.
            guidance_scale: Strength of the guidance by the embedding; up to 1 there is none.
            batch: Drawings at once.
            stop: Called after every denoising step; once it is true, nothing more is computed.
            noise_level: Noise of the embeddings, from 0, which adds a little: the more, the freer the drawing. In a
                Stable unCLIP as published at most 999.

        Returns:
            ``len(images) * len(seeds)`` PIL images: first all drawings of the first image, in the order of the seeds.

        Raises:
            Stopped: If ``stop`` was true.
            ValueError: If there are no images or seeds, no steps, a guidance that is no number, or no such noise level,
                or see :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the embedding of its image as it was.
        """
        require_images(images)
        batches = plan(len(images), seeds, batch)
        embeddings = torch.cat([embeddings for _, embeddings in self._batches(images, steering, batch)])
        drawings: list[Image.Image] = []
        for which, part in batches:
            drawings += self.draw(embeddings[which], part, num_inference_steps, guidance_scale, stop, noise_level)
        return drawings

    def draw(
        self,
        image_embeds: Tensor,
        seeds: Sequence[int],
        num_inference_steps: int = 20,
        guidance_scale: float = 10.0,
        stop: Callable[[], bool] | None = None,
        noise_level: int = 0,
    ) -> list[Image.Image]:
        """Draws embeddings, one batch.

        Args:
            image_embeds: ``[drawings, d_projection]``, see :meth:`image_embeds`.
            seeds: One per drawing.
            num_inference_steps: See :meth:`generate`.
            guidance_scale: See :meth:`generate`.
            stop: See :meth:`generate`.
            noise_level: See :meth:`generate`.

        Raises:
            Stopped: If ``stop`` was true.
            ValueError: If there are no steps, the guidance is no number, or there is no such noise level.
        """
        require_drawable(num_inference_steps, guidance_scale)
        checks.integer("noise_level", noise_level, 0, len(self.pipeline.image_noising_scheduler) - 1)
        return one_call(self.pipeline)(
            prompt=[""] * len(image_embeds),
            image_embeds=image_embeds,
            generator=generators(seeds),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            noise_level=noise_level,
            callback=asking(stop),
        ).images

    def _see(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = preprocess(self.pipeline.feature_extractor, images)
        return self.encoder(pixels.to(self.encoder.device, self.encoder.dtype)).image_embeds
