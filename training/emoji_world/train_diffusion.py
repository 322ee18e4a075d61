"""Trains ``hub/emoji-diffusion``, a Stable Diffusion that draws 64 x 64 pixels from a caption.

    accelerate launch -m training.emoji_world.train_autoencoder --kl
    accelerate launch -m training.emoji_world.train_diffusion

Its text encoder is that of emoji-clip, frozen: what an SAE finds in it is what a CLIP knows of words. As emoji-unclip
does, it draws canonical pictures. Captions of many scenes and latents of their canonical pictures are computed once
(``latents.py``); a UNet, which reads all tokens of a caption by cross attention, learns to draw these latents.
Interrupted runs go on where their last checkpoint was, a finished one goes on if ``--steps`` is raised, on a GPU as
well; where there is no checkpoint, ``--start hub/emoji-diffusion`` starts from the published weights.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from cbsae_hub.hub.files import sha256
from cbsae_hub.models import folder_revision
from training.emoji_world.captions import captions
from training.emoji_world.denoising import Denoiser, draw_conditioned, draw_times, drawing_scheduler, publishable
from training.emoji_world.latents import LatentStore, encode, store_latents
from training.emoji_world.layer_code import LayerCode
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SceneRenderer
from training.emoji_world.train_autoencoder import CODE
from training.emoji_world.train_unclip import SPEC

WIDTHS = (64, 128, 192)  # channels at 4 x 4, 2 x 2 and 1 x 1 latents
TIME_WIDTH = 256
HEADS = 4


def build_unet(channels: int, side: int, text_width: int) -> UNet2DConditionModel:
    """A fresh UNet for latents ``[n, channels, side, side]``, conditioned by text states of this width."""
    levels = len(WIDTHS)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=text_width,
        attention_head_dim=HEADS,  # diffusers' name for the number of heads
        time_embedding_dim=TIME_WIDTH,
        resnet_time_scale_shift="scale_shift",
    )


def text_parts(clip: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and frozen text encoder of a CLIPModel."""
    whole = CLIPModel.from_pretrained(clip)
    encoder = CLIPTextModel(whole.config.text_config)
    encoder.load_state_dict(whole.text_model.state_dict())
    encoder.set_attn_implementation("eager")  # as in clip_models; not saved
    return CLIPTokenizer.from_pretrained(clip), encoder.eval().requires_grad_(False)


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Token ids as the pipeline makes them, padding included, ``[texts, tokens]``."""
    length = tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return tokenizer(list(texts), **options).input_ids


def captioned_scenes(
    renderer: SceneRenderer, code: LayerCode, tokenizer: CLIPTokenizer, shard: int, rows: int
) -> dict[str, torch.Tensor]:
    """A shard's tensors: "ids" of the captions of scenes, and "latents" of their canonical pictures."""
    scenes = renderer.batch(shard, rows, SPEC)
    texts = captions(scenes, renderer.atlas.concepts, np.random.default_rng([renderer.seed, shard, 10]))
    latents = encode(code, renderer.atlas, scenes.concepts, scenes.backgrounds, scenes.styles)
    return {"latents": latents, "ids": token_ids(tokenizer, texts).to(torch.int32)}


class Drawing(Denoiser):
    """The UNet with the text encoder that it reads.

    Args:
        unet: The UNet.
        text_encoder: The frozen text encoder.
        nothing: Token ids of the empty prompt, ``[tokens]``, which guidance draws away from.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, nothing: torch.Tensor):
        super().__init__(unet)
        self.text_encoder = text_encoder
        self.register_buffer("nothing", nothing, persistent=False)

    def forward(
        self, latents: torch.Tensor, ids: torch.Tensor, chance: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for latents, captions' token ids ``[n, tokens]``, and what :func:`draw_chance` gave for them."""
        with torch.no_grad():
            read = torch.where(chance["conditioned"][:, None].bool(), ids, self.nothing)
            states = self.text_encoder(input_ids=read).last_hidden_state
        return self.loss(latents, chance, encoder_hidden_states=states)


def draw_chance(generator: torch.Generator, latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Everything random about a batch: times, noise, and where a caption conditions its drawing."""
    return {**draw_times(generator, latents), "conditioned": draw_conditioned(generator, len(latents))}


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> StableDiffusionPipeline:
    """The complete pipeline of a trained UNet and autoencoder; these in half precision."""
    return StableDiffusionPipeline(
        vae=publishable(vae),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=publishable(unet),
        scheduler=drawing_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 8000,
    batch: Annotated[int, typer.Option(help="Scenes a step and process.")] = 256,
    scenes: Annotated[int, typer.Option(help="Scenes whose latents are stored.")] = 65536,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and noise.")] = 6,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    start: Annotated[Path | None, typer.Option(help="A published pipeline whose UNet to start from.")] = None,
    clip: Annotated[Path, typer.Option(help="The CLIP whose text encoder reads the captions.")] = HUB / "emoji-clip",
    output: Annotated[Path, typer.Option(help="The pipeline; its vae is the one to use.")] = HUB / "emoji-diffusion",
    run: Annotated[Path, typer.Option(help="Latents, checkpoint and log.")] = RUNS / "emoji-diffusion",
) -> None:
    """Train and publish the Stable Diffusion of Emoji World."""
    accelerator, renderer = begin(seed, precision)
    tokenizer, text_encoder = text_parts(clip)
    vae = AutoencoderKL.from_pretrained(output / "vae")
    with accelerator.main_process_first():
        store = _store(run / "latents", scenes, renderer, output / "vae" / CODE, clip, tokenizer)
    if start:
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet")
    else:
        unet = build_unet(*store.rows(np.zeros(1))["latents"].shape[1:3], text_encoder.config.hidden_size)

    def make_batch(index: int) -> tuple:
        rng = np.random.default_rng([seed, index, 11])
        rows = store.rows(rng.integers(len(store), size=batch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return rows["latents"], rows["ids"].long(), draw_chance(generator, rows["latents"])

    model = Drawing(unet, text_encoder, token_ids(tokenizer, [""])[0])
    how = {"run": run, "steps": steps, "learning_rate": learning_rate}
    train(model, make_batch, accelerator, weight_decay=0.01, after_step=model.update_average, **how)
    if accelerator.is_main_process:
        publish(output, assemble(model.average, vae, tokenizer, model.text_encoder).save_pretrained)


def _store(
    folder: Path, scenes: int, renderer: SceneRenderer, code: Path, clip: Path, tokenizer: CLIPTokenizer
) -> LatentStore:
    made_with = {"clip": folder_revision(clip), "code": sha256(code), "seed": renderer.seed, "spec": asdict(SPEC)}
    shard_of = functools.partial(captioned_scenes, renderer, LayerCode.read(code), tokenizer)
    return store_latents(folder, scenes, shard_of, json.dumps(made_with))


if __name__ == "__main__":
    typer.run(main)
