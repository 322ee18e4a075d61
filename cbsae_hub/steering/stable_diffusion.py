"""Stable Diffusion draws what its text encoder makes of a prompt, after a change of latents in it."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from cbsae_hub.encoders.text import TextEncoder
from cbsae_hub.encoders.weights import alone
from cbsae_hub.hub.locate import Located
from cbsae_hub.lazy import needed
from cbsae_hub.models import checks
from cbsae_hub.steering.base import SteeredGenerator
from cbsae_hub.steering.drawing import asking, generators, one_call, plan, require_drawable
from cbsae_hub.steering.edits import AnySteering, Displacement, PerImage, at_tokens, displaced, displacements
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.steering.loading import default_dtype
from cbsae_hub.steering.neurons import AnyPack

with needed("diffusers", "drawing"):
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

logger = logging.getLogger(__name__)

PIPELINES = {kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
ENCODERS = ("text_encoder", "text_encoder_2")
EMBEDDINGS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
"""Embeddings that condition a drawing, by the names and in the order that diffusers has."""


class StableDiffusionSteerer(SteeredGenerator):
    """A Stable Diffusion, or Stable Diffusion XL, with an SAE at a block of its text encoder.

    As Olson et al. (2025, section 4.1) have it, with an SAE at the penultimate block: a steering adds its push to the
    tokens of the prompt, and takes it away from those of the unconditional prompt, which guidance draws away from. With
    a guidance of w this adds up to a push 2w - 1 times as long, to first order. What else a steering does, such as
    leaving out the SAE's error, it does to both alike. ``from_pretrained`` takes for instance
    "CompVis/stable-diffusion-v1-4".

    Args:
        pipeline: A ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        sae: SAE or concept bottleneck SAE of the text encoder's activations; moved to the encoder's device.
        pack: NeuronTable or Pack with the neurons' names and percentiles, or None.
        layer: The block at whose output the SAE works; default the SAE's own.
        text_encoder: "text_encoder" or "text_encoder_2"; default the one that is as wide as the SAE.

    Raises:
        ValueError: If it is another pipeline, no text encoder is as wide as the SAE, or both are.
    """

    what, index, kind = "The Stable Diffusion pipeline", "model_index.json", "text"

    def __init__(
        self,
        pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline,
        sae: SteerableSAE,
        pack: AnyPack = None,
        layer: int | None = None,
        text_encoder: str | None = None,
    ):
        _require_known(type(pipeline).__name__)
        self.pipeline = cast(Any, pipeline)  # its parts are attributes that its class does not declare
        self._asked_for = text_encoder
        encoders = {name: getattr(pipeline, name, None) for name in ENCODERS}
        self._encoders = {name: one.eval().requires_grad_(False) for name, one in encoders.items() if one is not None}
        self._place(sae, pack, layer)

    def _place(self, sae: SteerableSAE, pack: AnyPack, layer: int | None) -> None:
        name = self._asked_for or self._as_wide_as(sae.d_in)
        encoder = self._encoders[checks.choice("text_encoder", name, self._encoders)]
        self._steered = encoder, encoder.config
        super()._place(sae, pack, layer)
        tokenizer = getattr(self.pipeline, name.replace("text_encoder", "tokenizer"))
        self._texts = TextEncoder(encoder, tokenizer, self.tower.layer)

    def _as_wide_as(self, d_in: int) -> str:
        widths = {name: encoder.config.hidden_size for name, encoder in self._encoders.items()}
        fitting = [name for name, width in widths.items() if width == d_in]
        if len(fitting) > 1:
            raise ValueError(f"both text encoders have width {d_in}: say which with text_encoder='text_encoder_2'")
        if not fitting:
            has = " and ".join(f"{name} {width}" for name, width in widths.items())
            raise ValueError(f"the SAE explains activations of width {d_in}, {has}: it is an SAE of another encoder")
        return fitting[0]

    @classmethod
    def _load(cls, located: Located, device: torch.device, dtype: torch.dtype | None) -> dict[str, Any]:
        source = located.pretrained
        kind = PIPELINES[_require_known(DiffusionPipeline.load_config(**source)["_class_name"])]
        dtype = dtype or default_dtype(device)
        with alone:
            pipeline: Any = kind.from_pretrained(**source, dtype=dtype, use_safetensors=True)
        return {"pipeline": pipeline.to(device)}

    @torch.no_grad()
    def embeds(
        self,
        prompts: Sequence[str],
        steering: PerImage = None,
        guided: bool = True,
        negative_prompt: str | None = None,
    ) -> dict[str, Tensor]:
        """The embeddings by which prompts condition the drawing, one batch.

        Args:
            prompts: See :meth:`generate`.
            steering: See :meth:`generate`.
            guided: Whether there are unconditional embeddings, too.
            negative_prompt: See :meth:`generate`.

        Returns:
            Tensors by the names of the pipeline's arguments, ``prompt_embeds [prompts, tokens, d]`` for one.

        Raises:
            ValueError: See :meth:`generate`.
            EditError: If a steering leaves the embeddings of its prompt as they were.
        """
        return self._embeds(prompts, self._at_words(steering, prompts), guided, negative_prompt)

    def generate(
        self,
        prompts: Sequence[str],
        steering: PerImage = None,
        seeds: Sequence[int] = (0,),
        num_inference_steps: int = 20,
        guidance_scale: float = 7.5,
        batch: int = 8,
        stop: Callable[[], bool] | None = None,
        negative_prompt: str | None = None,
    ) -> list[Image.Image]:
        """Draws each prompt, once per seed.

        All noise of a drawing comes from one generator on the CPU, made from its seed: drawings of one seed start
        alike, whatever the steering, batch or device.

        Args:
            prompts: Texts.
            steering: One for all prompts or one per prompt; None steers nothing. Its tokens are "all", which is the
                padding too, "words", the prompt's own, or numbers of these, from 0. The unconditional prompt is
                steered at the same places.
            seeds: Drawings of each prompt.
            num_inference_steps: Denoising steps.
            guidance_scale: Strength of the guidance by the prompt; up to 1 there is none.
            batch: Drawings at once.
            stop: Called after every denoising step; once it is true, nothing more is computed.
            negative_prompt: The unconditional prompt. Default is the pipeline's own choice: an empty prompt, or, of
                Stable Diffusion XL as published, zeros, which no text encoder makes and no steering moves.

        Returns:
            ``len(prompts) * len(seeds)`` PIL images: first all drawings of the first prompt, in the order of the seeds.

        Raises:
            Stopped: If ``stop`` was true.
            ValueError: If there are no prompts or seeds, no steps, a guidance that is no number, tokens that no prompt
                has, or see :func:`cbsae_hub.steering.apply`.
            EditError: If a steering leaves the embeddings of its prompt as they were.
        """
        require_drawable(num_inference_steps, guidance_scale)
        batches = plan(len(prompts), seeds, batch)
        steerings = self._at_words(steering, prompts)
        # As the pipeline has it: one that has learnt its guidance needs no unconditional embeddings.
        guided = guidance_scale > 1 and self.pipeline.unet.config.time_cond_proj_dim is None
        parts = [
            self._embeds(prompts[start : start + batch], steerings[start : start + batch], guided, negative_prompt)
            for start in range(0, len(prompts), batch)
        ]
        embeds = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        drawings: list[Image.Image] = []
        for which, part in batches:
            drawn = one_call(self.pipeline)(
                **{name: each[which] for name, each in embeds.items()},
                generator=generators(part),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                callback_on_step_end=asking(stop),
            )
            if black := sum(getattr(drawn, "nsfw_content_detected", None) or []):
                logger.warning("%d drawings are black: the pipeline's safety checker does not let them pass", black)
            drawings += drawn.images
        return drawings

    @torch.no_grad()
    def _embeds(
        self, prompts: Sequence[str], steerings: Sequence[AnySteering | None], guided: bool, negative_prompt: str | None
    ) -> dict[str, Tensor]:
        plain = self._encode(prompts, guided, negative_prompt)
        if all(one is None for one in steerings):
            return plain
        passes: list[tuple[list[Displacement | None], Tensor]] = []

        def edit(v: Tensor) -> Tensor:  # the pipeline encodes the prompts first, and then the unconditional ones
            moves = list(displacements(steerings, v, self.tower.sae))
            if passes:
                moves = [own and first and own._replace(push=-first.push) for own, first in zip(moves, passes[0][0])]
            edited = displaced(v, steerings, moves, self.tower.prefix)
            passes.append((moves, edited.changes.any(-1)))
            return edited.activations

        with self.tower.site.edit(edit, allow_identity=True):
            steered = self._encode(prompts, guided, negative_prompt)
        self.tower.require_effect(_read(plain), _read(steered), passes[0][1], steerings)
        return steered

    def _encode(self, prompts: Sequence[str], guided: bool, negative_prompt: str | None = None) -> dict[str, Tensor]:
        """The pipeline's own embeddings of prompts, by the names of its arguments."""
        encoded = self.pipeline.encode_prompt(
            list(prompts),
            device=self.pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
        )
        return {name: each for name, each in zip(EMBEDDINGS, encoded) if each is not None}

    def _see(self, images: Sequence[str]) -> Tensor:
        return _read(self._encode(images, guided=False))

    def _at_words(self, steering: PerImage, prompts: Sequence[str]) -> list[AnySteering | None]:
        """One resolved steering per prompt, whose tokens are places of the text encoder's."""
        words = self._texts.prepare(prompts).chosen
        steerings = self._resolved(steering, len(prompts))
        return [
            one if one is None or one.tokens == "all" else at_tokens(one, _places(one.tokens, own, prompt))
            for one, own, prompt in zip(steerings, words, prompts)
        ]


def _require_known(kind: str) -> str:
    if kind not in PIPELINES:
        raise ValueError(
            f"a {kind} cannot be steered: its drawings do not follow from CLIP's reading of a prompt alone; give a "
            f"{' or a '.join(PIPELINES)}"
        )
    return kind


def _read(embeds: dict[str, Tensor]) -> Tensor:
    """Everything that the UNet reads of each prompt, as one row."""
    return torch.cat([embeds[name].flatten(1) for name in EMBEDDINGS[::2] if name in embeds], 1)


def _places(tokens: str | Sequence[int], words: Tensor, prompt: str) -> list[int]:
    """Places of a prompt's tokens, of which ``words [tokens]`` bool are its own."""
    if isinstance(tokens, str) and tokens != "words":
        raise ValueError(f"tokens={tokens!r} are those of an image; of a prompt take 'all', 'words' or numbers")
    places = words.nonzero().flatten().tolist()
    if not places:
        raise ValueError(f"the prompt {prompt!r:.80} has no words to steer: take tokens='all'")
    if tokens == "words":
        return places
    if (last := max(int(token) for token in tokens)) >= len(places):
        raise ValueError(f"there is no token {last}: {prompt!r:.80} has {len(places)}, counted from 0")
    return [places[int(token)] for token in tokens]
