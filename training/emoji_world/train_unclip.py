"""Trains ``hub/emoji-unclip``, a Stable unCLIP that draws 64 x 64 pixels from an embedding of emoji-clip.

    accelerate launch -m training.emoji_world.train_autoencoder
    accelerate launch -m training.emoji_world.train_unclip

What it draws is the canonical picture of what the embedding's scene shows: place, size and turn of the objects in that
scene are no part of it. Embeddings of many scenes and latents of their canonical pictures are computed once
(``latents.py``); a UNet learns to draw these latents, conditioned by class embeddings alone: it has no attention, the
prompt is never looked at. Its levels go down to a single position, where it is a plain network from the embedding to
the picture: global shape is learned there, at little cost. First of all its class embedding learns alone, to predict
the latents by a linear read-out: a step of that takes a fourteenth of one of the UNet's, which needs as many of them to
learn the same. Some of the embeddings are pushed as steering does it (``pushes.py``). Interrupted runs go on where
their last checkpoint was, a finished one goes on if ``--steps`` is raised, on a GPU as well; where there is no
checkpoint, ``--start hub/emoji-unclip`` starts from the published weights.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderDC, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cbsae_hub.hub.files import sha256
from cbsae_hub.models import folder_revision
from training.emoji_world.denoising import (
    TIMES,
    Denoiser,
    draw_conditioned,
    draw_times,
    drawing_scheduler,
    publishable,
)
from training.emoji_world.latents import EmbeddedScenes, LatentStore, load_encoder, store_latents
from training.emoji_world.layer_code import LayerCode
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SceneRenderer, SceneSpec
from training.emoji_world.train_autoencoder import CODE

SPEC = SceneSpec(objects=(1, 1, 1, 2), style_share=0.05)
WIDTHS = (64, 128, 256)  # channels at 4 x 4, 2 x 2 and 1 x 1 latents
CONDITION_WIDTH = 1024  # of time and embedding, by which the blocks are conditioned
TEXT_WIDTH = 16
EMBEDDING_STEPS, EMBEDDING_RATE = 6000, 2e-3  # of the class embedding alone, in front of all
PUSHED = 0.3  # share of embeddings that are pushed as steering does it, see pushes.py


def build_unet(channels: int, side: int, embedding: int) -> UNet2DConditionModel:
    """A fresh UNet for latents ``[n, channels, side, side]``, conditioned by embeddings of this width."""
    levels = len(WIDTHS)
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        time_embedding_dim=CONDITION_WIDTH,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * embedding,
        resnet_time_scale_shift="scale_shift",
    )


def embedding_scheduler() -> DDPMScheduler:
    """The noise on image embeddings, as in the published Stable unCLIP pipelines."""
    return DDPMScheduler(num_train_timesteps=TIMES, beta_schedule="squaredcos_cap_v2")


def noised_embeddings(
    embeddings: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    normalizer: StableUnCLIPImageNormalizer,
    scheduler: DDPMScheduler,
) -> torch.Tensor:
    """The pipeline's ``noise_image_embeddings`` with a noise level for each embedding, ``[n, d] -> [n, 2 d]``."""
    noisy = normalizer.unscale(scheduler.add_noise(normalizer.scale(embeddings), noise, levels))
    level = get_timestep_embedding(levels, embeddings.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noisy, level], 1)


def fit_normalizer(embeddings: torch.Tensor) -> StableUnCLIPImageNormalizer:
    """A frozen normaliser with the mean and deviation of embeddings ``[n, d]``."""
    normalizer = StableUnCLIPImageNormalizer(embeddings.shape[1]).requires_grad_(False)
    normalizer.mean.copy_(embeddings.mean(0, keepdim=True))
    normalizer.std.copy_(embeddings.std(0, keepdim=True))
    return normalizer


class Regression(torch.nn.Module):
    """The UNet's class embedding with a linear read-out of the latents, and the loss."""

    def __init__(self, unet: UNet2DConditionModel, normalizer: StableUnCLIPImageNormalizer):
        super().__init__()
        latents = unet.config.in_channels * unet.config.sample_size**2
        self.embedding, self.normalizer, self.scheduler = unet.class_embedding, normalizer, embedding_scheduler()
        self.read_out = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(CONDITION_WIDTH, latents))

    def forward(
        self, latents: torch.Tensor, embeddings: torch.Tensor, chance: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for scaled latents and embeddings, and what :func:`draw_chance` gave for them."""
        condition = noised_embeddings(
            embeddings, chance["embedding_noise"], chance["levels"], self.normalizer, self.scheduler
        )
        error = (self.read_out(self.embedding(condition)).float() - latents.flatten(1)).square().mean()
        return error, {"error": error.item()}


class Denoising(Denoiser):
    """The UNet, its moving average, and the loss."""

    def __init__(self, unet: UNet2DConditionModel, normalizer: StableUnCLIPImageNormalizer):
        super().__init__(unet)
        self.normalizer, self.embedding_scheduler = normalizer, embedding_scheduler()

    def forward(
        self, latents: torch.Tensor, embeddings: torch.Tensor, chance: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for scaled latents and embeddings, and what :func:`draw_chance` gave for them."""
        condition = noised_embeddings(
            embeddings, chance["embedding_noise"], chance["levels"], self.normalizer, self.embedding_scheduler
        )
        labels = condition * chance["conditioned"][:, None]
        return self.loss(latents, chance, encoder_hidden_states=None, class_labels=labels)


def draw_chance(generator: torch.Generator, latents: torch.Tensor, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
    """Everything random about a batch: times, noises, and where an embedding conditions its drawing.

    Three of four noise levels of embeddings are below 100: the pipeline's default is 0.
    """
    return {
        **draw_times(generator, latents),
        "embedding_noise": torch.randn(embeddings.shape, generator=generator),
        "levels": (torch.rand(len(latents), generator=generator) ** 8 * TIMES).long(),
        "conditioned": draw_conditioned(generator, len(latents)),
    }


def text_parts(clip: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The pipeline's parts for its prompt, which nothing looks at: CLIP's tokenizer and one narrow layer."""
    tokenizer = CLIPTokenizer.from_pretrained(clip)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModel(config)


def assemble(
    unet: UNet2DConditionModel, normalizer: StableUnCLIPImageNormalizer, vae: AutoencoderDC, clip: Path
) -> StableUnCLIPImg2ImgPipeline:
    """The complete pipeline of a trained UNet and autoencoder, in half precision, with the other parts for a CLIP."""
    tokenizer, text_encoder = text_parts(clip)
    vae.register_to_config(block_out_channels=vae.config.decoder_block_out_channels)  # the pipeline counts its levels
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor.from_pretrained(clip),
        image_encoder=load_encoder(clip),
        image_normalizer=normalizer,
        image_noising_scheduler=embedding_scheduler(),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=publishable(unet),
        scheduler=drawing_scheduler(),
        vae=publishable(vae),
    )


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 12000,
    batch: Annotated[int, typer.Option(help="Scenes a step and process.")] = 256,
    scenes: Annotated[int, typer.Option(help="Scenes whose latents are stored.")] = 65536,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and noise.")] = 5,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    start: Annotated[Path | None, typer.Option(help="A published pipeline whose UNet to start from.")] = None,
    clip: Annotated[Path, typer.Option(help="The CLIP whose embeddings are drawn.")] = HUB / "emoji-clip",
    output: Annotated[Path, typer.Option(help="Published pipeline; its vae is the one to use.")] = HUB / "emoji-unclip",
    run: Annotated[Path, typer.Option(help="Latents, checkpoint and log.")] = RUNS / "emoji-unclip",
) -> None:
    """Train and publish the unCLIP of Emoji World."""
    accelerator, renderer = begin(seed, precision)
    vae = AutoencoderDC.from_pretrained(output / "vae")
    with accelerator.main_process_first():
        store = _store(run / "latents", scenes, renderer, output / "vae" / CODE, clip, accelerator.device)
    if start:
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet")
    else:
        row = store.rows(np.zeros(1))
        unet = build_unet(*row["latents"].shape[1:3], row["embeddings"].shape[1])
    normalizer = fit_normalizer(store.column("embeddings"))

    def make_batch(index: int) -> tuple:
        rng = np.random.default_rng([seed, index, 7])
        rows = store.rows(rng.integers(len(store), size=batch))
        latents, embeddings = rows["latents"], rows["embeddings"]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return latents, embeddings, draw_chance(generator, latents, embeddings)

    if not start:
        first = {"run": run / "embedding", "steps": EMBEDDING_STEPS, "learning_rate": EMBEDDING_RATE}
        train(Regression(unet, normalizer), make_batch, accelerator, weight_decay=0.01, **first)
    model = Denoising(unet, normalizer)
    second = {"run": run, "steps": steps, "learning_rate": learning_rate}
    train(model, make_batch, accelerator, weight_decay=0.01, after_step=model.update_average, **second)
    if accelerator.is_main_process:
        publish(output, assemble(model.average, model.normalizer, vae, clip).save_pretrained)


def _store(
    folder: Path, scenes: int, renderer: SceneRenderer, code: Path, clip: Path, device: torch.device
) -> LatentStore:
    made_with = {
        "clip": folder_revision(clip),
        "code": sha256(code),
        "seed": renderer.seed,
        "spec": asdict(SPEC),
        "pushed": PUSHED,
    }
    encoder = load_encoder(clip).to(device)
    rows = EmbeddedScenes(renderer, SPEC, LayerCode.read(code), encoder, PUSHED)
    return store_latents(folder, scenes, rows, json.dumps(made_with))


if __name__ == "__main__":
    typer.run(main)
