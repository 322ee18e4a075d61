"""Trains the autoencoder of ``hub/emoji-unclip``: 64 x 64 pixels as 16 x 16 latents of 8 channels, and back.

    accelerate launch -m training.emoji_world.train_autoencoder

An AutoencoderTiny whose reconstructions look alike to the eye (pixels and edges) and to emoji-clip (patches of every
layer, and the image embedding). Its encoder starts as the best linear one: 4 x 4 pixels unfolded into channels, and
their principal components. From there a minute of training brings what takes ten from random weights. Interrupted
runs go on where their last checkpoint was.
"""

from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from transformers import CLIPModel, CLIPVisionModelWithProjection

from training.emoji_world.glyphs import Atlas
from training.emoji_world.loop import train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SIDE, SceneRenderer, SceneSpec

SPEC = SceneSpec(objects=(1, 1, 2, 3), style_share=0.1, word_share=0.05)
ENCODER, DECODER = (0, 0, 2), (3, 1, 0)  # residual blocks at 64, 32 and 16 pixels a side, and the way back
REDUCTION = 2 ** (len(ENCODER) - 1)
WIDTH = 3 * REDUCTION**2  # of all layers: what it takes to unfold pixels into channels
CHANNELS, LATENT_SIDE = 8, SIDE // REDUCTION
DEVIATION = 0.5  # of fresh latents; AutoencoderTiny's decoder squashes what exceeds 3
NOISE = 0.1  # in deviations of the latents: the decoder shall bear what a UNet draws not quite right
MEASURED = 2048  # scenes that the principal components and the scaling factor are computed from


@torch.no_grad()
def build(pixels: torch.Tensor) -> AutoencoderTiny:
    """A fresh autoencoder whose encoder computes principal components of 4 x 4 pixels, scaled alike.

    The residual blocks, encoder's and decoder's, start as identities. In the encoder they pass on unfolded pixels,
    which are never negative, so that their ReLU lets all of it through.

    Args:
        pixels: ``[n, 3, 64, 64]`` in -1..1, whose principal components are taken.
    """
    vae = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * len(ENCODER),
        decoder_block_out_channels=(WIDTH,) * len(DECODER),
        num_encoder_blocks=ENCODER,
        num_decoder_blocks=DECODER,
        latent_channels=CHANNELS,
    )
    for block in vae.modules():
        if isinstance(block, AutoencoderTinyBlock):
            torch.nn.init.zeros_(block.conv[-1].weight)
            torch.nn.init.zeros_(block.conv[-1].bias)
    for layer in vae.decoder.layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    first, *strided, last = (layer for layer in vae.encoder.layers if isinstance(layer, torch.nn.Conv2d))
    first.weight[:3], first.bias[:3] = 0, 0  # the first three channels are the pixels; the others stay random
    first.weight[range(3), range(3), 1, 1] = 1
    for level, layer in enumerate(strided):
        here = 3 * 4**level
        layer.weight[: 4 * here] = 0
        for corner in range(4):  # of 2 x 2 pixels, which are the taps 1 and 2 of a strided kernel of 3
            rows = range(corner * here, (corner + 1) * here)
            layer.weight[rows, range(here), 1 + corner // 2, 1 + corner % 2] = 1
    unfolded = vae.encoder.layers[:-1](pixels.add(1).div(2)).movedim(1, -1).flatten(0, -2)
    mean = unfolded.mean(0)
    _, components = torch.linalg.eigh((unfolded - mean).T @ (unfolded - mean))  # ascending eigenvalues
    components = components[:, -CHANNELS:]
    components *= DEVIATION / ((unfolded - mean) @ components).std()
    last.weight.zero_()
    last.weight[:, :, 1, 1] = components.T
    last.bias.copy_(-mean @ components)
    return vae


def load_encoder(folder: Path) -> CLIPVisionModelWithProjection:
    """The frozen vision tower of a CLIPModel, with its projection, as the pipeline has it."""
    clip = CLIPModel.from_pretrained(folder)
    encoder = CLIPVisionModelWithProjection(clip.config.vision_config)
    encoder.vision_model, encoder.visual_projection = clip.vision_model, clip.visual_projection
    encoder.set_attn_implementation("eager")  # as in clip_models; not saved
    return encoder.eval().requires_grad_(False)


class Autoencoding(torch.nn.Module):
    """The autoencoder, the frozen encoder that judges it, and the loss."""

    def __init__(self, vae: AutoencoderTiny, encoder: CLIPVisionModelWithProjection):
        super().__init__()
        self.vae, self.encoder = vae, encoder

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for pixels in -1..1, ``[n, 3, 64, 64]``, and standard normal noise, ``[n, 8, 16, 16]``."""
        latents = self.vae.encode(pixels).latents.float()
        # Noise relative to the latents: larger ones would not bear it better, so their scale stays where it is.
        drawn = self.vae.decode(latents + NOISE * latents.std() * noise).sample.float()
        error = drawn - pixels
        parts = {
            "pixels": (error.square() + 1e-6).sqrt().mean(),  # Charbonnier: L1, smooth at zero
            "edges": error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean(),
            **self._perceptual(drawn, pixels),
        }
        return sum(parts.values()), {name: part.item() for name, part in parts.items()}

    def _perceptual(self, drawn: torch.Tensor, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """One minus the cosine: mean over the encoder's layers and tokens, and of the image embedding."""
        with torch.no_grad():
            *layers, embedding = self._look(pixels)
        *drawn_layers, drawn_embedding = self._look(drawn)
        similar = [F.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(drawn_layers, layers)]
        return {
            "patches": 1 - torch.stack(similar).mean(),
            "embedding": 1 - F.cosine_similarity(drawn_embedding, embedding, dim=-1).mean(),
        }

    def _look(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        seen = self.encoder(pixel_values=pixels, output_hidden_states=True)
        return [states.float() for states in (*seen.hidden_states[1:], seen.image_embeds)]


@torch.no_grad()
def measure_scaling(vae: AutoencoderTiny, pixels: torch.Tensor, batch: int = 256) -> float:
    """What latents of pixels in -1..1, ``[n, 3, 64, 64]``, are multiplied by to have a variance of one."""
    latents = torch.cat([vae.encode(part.to(vae.device)).latents for part in pixels.split(batch)])
    return 1 / latents.std().item()


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 5000,
    batch: Annotated[int, typer.Option(help="Scenes a step and process.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of weights and scenes.")] = 4,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    encoder: Annotated[Path, typer.Option(help="The CLIP in whose eyes reconstructions are judged.")] = HUB
    / "emoji-clip",
    output: Annotated[Path, typer.Option(help="Folder of the published autoencoder.")] = HUB / "emoji-unclip" / "vae",
    run: Annotated[Path, typer.Option(help="Checkpoint and log.")] = RUNS / "emoji-autoencoder",
) -> None:
    """Trains and publishes the autoencoder of Emoji World."""
    torch.set_num_threads(2)
    set_seed(seed)
    accelerator = Accelerator(mixed_precision=precision)
    renderer = SceneRenderer(Atlas.build(), seed)

    def pixels_of(index: int, size: int) -> torch.Tensor:
        pixels = renderer.batch(index, size, SPEC).pixels.to(accelerator.device).float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)

    measured = pixels_of(0, MEASURED)
    # channels_last is a quarter faster on a CPU: the convolutions need no reordering.
    vae = build(measured.cpu()).to(accelerator.device, memory_format=torch.channels_last)

    def step_loss(model: torch.nn.Module, step: int):
        index = step * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator().manual_seed(index)
        noise = torch.randn(batch, CHANNELS, LATENT_SIDE, LATENT_SIDE, generator=generator)
        return model(pixels_of(index, batch), noise.to(accelerator.device))

    train(
        Autoencoding(vae, load_encoder(encoder)).to(accelerator.device),
        step_loss,
        accelerator=accelerator,
        run=run,
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=0.0,
    )
    if accelerator.is_main_process:
        vae.register_to_config(scaling_factor=measure_scaling(vae, measured))
        publish(output, vae.save_pretrained)


if __name__ == "__main__":
    typer.run(main)
