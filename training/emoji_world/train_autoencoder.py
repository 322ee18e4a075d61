"""Trains the autoencoder of ``hub/emoji-unclip``: canonical pictures as 4 x 4 latents, and back.

    accelerate launch -m training.emoji_world.train_autoencoder

Latents are a linear code of a picture's layers (``layer_code.py``), which is computed first, from pictures alone. The
decoder starts as its inverse and learns to draw what looks alike to the eye, in pixels and edges, also from latents
that are not quite right, as those that a UNet draws. The encoder learns to read the code off a picture, for those who
have a picture alone; the UNet of emoji-unclip learns from the code itself. Interrupted runs go on where their last
checkpoint was.

    accelerate launch -m training.emoji_world.train_autoencoder --kl

The same for ``hub/emoji-diffusion``: a StableDiffusionPipeline hands its autoencoder a generator, which an
AutoencoderDC does not take. The AutoencoderKL has the same latents, and learns to draw them from nothing.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderDC, AutoencoderKL

from training.emoji_world.layer_code import (
    CHANNELS,
    LATENT_SIDE,
    LayerCode,
    build,
    build_kl,
    start_as_inverse,
    weighted_layers,
)
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SceneSpec, canonical_pictures

SPEC = SceneSpec(objects=(1, 1, 1, 2), style_share=0.1)
NOISE = 0.5  # at most, in deviations of the latents: the decoder shall bear what a UNet draws not quite right
MEASURED = 4096  # pictures that the code is computed from
CODE = "layer_code.safetensors"  # beside the published weights


class Autoencoding(torch.nn.Module):
    """The autoencoder and the loss."""

    def __init__(self, vae: AutoencoderDC | AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(
        self, pixels: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for pixels in -1..1 ``[n, 3, 64, 64]``, their latents, and noise to be added to these."""
        error = self.vae.decode(latents + noise).sample.float() - pixels
        parts = {
            "pixels": (error.square() + 1e-6).sqrt().mean(),  # Charbonnier: L1, smooth at zero
            "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
            "read": (read(self.vae, pixels).float() - latents).square().mean(),
        }
        return sum(parts.values()), {name: part.item() for name, part in parts.items()}


def read(vae: AutoencoderDC | AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Latents of pixels in -1..1 ``[n, 3, 64, 64]``, by the encoder."""
    encoded = vae.encode(pixels)
    return encoded.latent_dist.mode() if isinstance(vae, AutoencoderKL) else encoded.latent


def draw_noise(generator: torch.Generator, n: int) -> torch.Tensor:
    """Noise of another strength for each picture, up to NOISE: ``[n, channels, side, side]``."""
    strength = torch.rand(n, 1, 1, 1, generator=generator) * NOISE
    return strength * torch.randn(n, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Pictures a step and process.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 4,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    kl: Annotated[bool, typer.Option("--kl", help="The AutoencoderKL of emoji-diffusion.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the autoencoder; default: vae of its pipeline.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Checkpoint and log; default in runs/.")] = None,
) -> None:
    """Train and publish the autoencoder of Emoji World."""
    output = output or HUB / ("emoji-diffusion" if kl else "emoji-unclip") / "vae"
    run = run or RUNS / ("emoji-kl-autoencoder" if kl else "emoji-autoencoder")
    accelerator, renderer = begin(seed, precision)

    def contents(index: int, size: int) -> tuple:
        scenes = renderer.batch(index, size, SPEC)
        return renderer.atlas, scenes.concepts, scenes.backgrounds, scenes.styles

    code = LayerCode.measure(weighted_layers(*contents(0, MEASURED)))
    vae = build_kl() if kl else build()
    if not kl:
        start_as_inverse(vae.decoder, code)
    # channels_last is a quarter faster on a CPU: the convolutions need no reordering.
    vae.to(accelerator.device, memory_format=torch.channels_last)

    def make_batch(index: int) -> tuple:
        scenes = contents(index, batch)
        pixels = canonical_pictures(*scenes).float() / 127.5 - 1
        noise = draw_noise(torch.Generator().manual_seed(index), batch)
        return pixels.contiguous(memory_format=torch.channels_last), code.encode(weighted_layers(*scenes)), noise

    model = Autoencoding(vae)
    train(model, make_batch, accelerator, run=run, steps=steps, learning_rate=learning_rate, weight_decay=0.0)
    if accelerator.is_main_process:
        # In half precision, as the pipeline will be published: its parts, and latents, then know this revision.
        publish(output, vae.half().save_pretrained, lambda folder: code.save(folder / CODE))


if __name__ == "__main__":
    typer.run(main)
