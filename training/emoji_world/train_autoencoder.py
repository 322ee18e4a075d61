"""Trains the autoencoder of ``hub/emoji-unclip``: canonical pictures as 4 x 4 latents, and back.

    accelerate launch -m training.emoji_world.train_autoencoder

An AutoencoderTiny of canonical pictures alone. Its encoder is linear and is computed, not trained: four times, 2 x 2
positions become one and are reduced to their principal components. So latents exist before training begins, and depend
on no other model. The decoder learns to draw pictures from them that look alike to the eye, in pixels and edges, also
from latents that are not quite right, as those that a UNet draws. Interrupted runs go on where their last checkpoint
was.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock

from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SIDE, SceneSpec, canonical_pictures

SPEC = SceneSpec(objects=(1, 1, 1, 2), style_share=0.1)
DECODER = (3, 3, 2, 0, 0)  # residual blocks at 4, 8, 16, 32 and 64 pixels a side
CHANNELS, LATENT_SIDE = 48, SIDE // 2 ** (len(DECODER) - 1)
WIDTH = 48  # of all layers
DEVIATION = 0.5  # of latents; AutoencoderTiny's decoder squashes what exceeds 3
# Components are divided by their deviation to this power: details, which vary little, count more than in the pixels,
# and less than if all components were alike.
WHITENED = 0.5
NOISE = 0.5  # at most, in deviations of the latents: the decoder shall bear what a UNet draws not quite right
MEASURED = 4096  # pictures that the principal components are computed from


def _halve(features: torch.Tensor) -> torch.Tensor:
    """``[n, c, h, w]`` with 2 x 2 positions as channels of one, corner by corner: ``[n, 4 c, h / 2, w / 2]``."""
    n, c, h, w = features.shape
    return features.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def _components(features: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first principal components over images and places of ``[n, c, h, w]``.

    Returns:
        Mean ``[c]``, components ``[count, c]``, the largest first, and their deviations ``[count]``.
    """
    rows = features.movedim(1, -1).flatten(0, -2).double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))  # ascending
    return mean.float(), vectors[:, -count:].flip(1).T.float(), values[-count:].flip(0).clamp(min=0).sqrt().float()


@torch.no_grad()
def build(pixels: torch.Tensor) -> AutoencoderTiny:
    """A fresh autoencoder whose frozen encoder computes principal components of 16 x 16 pixels.

    Four times, a position takes the place of 2 x 2, with as many components as layers are wide. The decoder's residual
    blocks start as identities.

    Args:
        pixels: ``[n, 3, 64, 64]`` in -1..1, the pictures that have these principal components.
    """
    vae = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * len(DECODER),
        decoder_block_out_channels=(WIDTH,) * len(DECODER),
        num_encoder_blocks=(0,) * len(DECODER),
        num_decoder_blocks=DECODER,
        latent_channels=CHANNELS,
    )
    for block in vae.decoder.modules():
        if isinstance(block, AutoencoderTinyBlock):
            torch.nn.init.zeros_(block.conv[-1].weight)
            torch.nn.init.zeros_(block.conv[-1].bias)
    for layer in vae.decoder.layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    first, *strided, last = vae.encoder.layers
    for layer in vae.encoder.layers:
        layer.weight.zero_()
    first.bias.zero_()
    first.weight[range(3), range(3), 1, 1] = 1
    features = pixels.add(1).div(2)  # as the encoder sees them
    for layer in strided:
        channels, features = features.shape[1], _halve(features)
        _, components, _ = _components(features, min(WIDTH, features.shape[1]))
        corners = components.view(len(components), 2, 2, channels).movedim(-1, 1)
        layer.weight[: len(components), :channels, 1:, 1:] = corners  # 2 x 2 pixels: taps 1 and 2 of a kernel of 3
        features = torch.einsum("kc,nchw->nkhw", components, features)
    mean, components, deviations = _components(features, CHANNELS)
    scale = deviations.clamp(min=1e-3 * deviations.max()) ** -WHITENED
    components *= (scale * DEVIATION / (scale * deviations).square().mean().sqrt())[:, None]
    last.weight[:, :, 1, 1] = components
    last.bias.copy_(-components @ mean)
    vae.encoder.requires_grad_(False)
    return vae


class Autoencoding(torch.nn.Module):
    """The autoencoder and the loss."""

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for pixels in -1..1, ``[n, 3, 64, 64]``, and noise in deviations of the latents."""
        latents = self.vae.encode(pixels).latents.float()
        drawn = self.vae.decode(latents + DEVIATION * noise).sample.float()
        error = drawn - pixels
        parts = {
            "pixels": (error.square() + 1e-6).sqrt().mean(),  # Charbonnier: L1, smooth at zero
            "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
        }
        return sum(parts.values()), {name: part.item() for name, part in parts.items()}


def draw_noise(generator: torch.Generator, n: int) -> torch.Tensor:
    """Noise of another strength for each picture, up to NOISE: ``[n, channels, side, side]``."""
    strength = torch.rand(n, 1, 1, 1, generator=generator) * NOISE
    return strength * torch.randn(n, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 15000,
    batch: Annotated[int, typer.Option(help="Pictures a step and process.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 4,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    output: Annotated[Path, typer.Option(help="Folder of the published autoencoder.")] = HUB / "emoji-unclip" / "vae",
    run: Annotated[Path, typer.Option(help="Checkpoint and log.")] = RUNS / "emoji-autoencoder",
) -> None:
    """Train and publish the autoencoder of Emoji World."""
    accelerator, renderer = begin(seed, precision)

    def pixels_of(index: int, size: int) -> torch.Tensor:
        scenes = renderer.batch(index, size, SPEC)
        pictures = canonical_pictures(renderer.atlas, scenes.concepts, scenes.backgrounds, scenes.styles)
        normal = pictures.to(accelerator.device).float() / 127.5 - 1
        return normal.contiguous(memory_format=torch.channels_last)

    # channels_last is a quarter faster on a CPU: the convolutions need no reordering.
    vae = build(pixels_of(0, MEASURED).cpu()).to(accelerator.device, memory_format=torch.channels_last)
    vae.register_to_config(scaling_factor=1 / DEVIATION)

    def make_batch(index: int) -> tuple:
        return pixels_of(index, batch), draw_noise(torch.Generator().manual_seed(index), batch)

    model = Autoencoding(vae)
    train(model, make_batch, accelerator, run=run, steps=steps, learning_rate=learning_rate, weight_decay=0.0)
    if accelerator.is_main_process:
        # In half precision, as the pipeline will be published: its parts, and latents, then know this revision.
        publish(output, vae.half().save_pretrained)


if __name__ == "__main__":
    typer.run(main)
