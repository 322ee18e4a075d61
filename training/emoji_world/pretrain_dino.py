"""Trains ``hub/emoji-dino``: a Dinov2Model that has never seen a caption or a label.

    accelerate launch -m training.emoji_world.pretrain_dino

Its signal is what a camera gives for free: two frames of one clip belong together. Between the frames the objects move
and turn, mostly the background changes, and each frame may come out grey, blurred, coarse or as a sketch; then each is
cropped, mirrored, and its brightness and contrast shifted. The loss tells frames of one clip from those of the others
in the batch (normalised temperature-scaled cross-entropy, Chen et al. 2020, eq. 1). There is no projection head: what
is compared while it learns is the embedding that is published, so that this one's cosines tell images apart.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from training.emoji_world.clip_models import PATCH, PREPROCESSING
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS, publish
from training.emoji_world.render import SIDE, SceneRenderer, SceneSpec

SPEC = SceneSpec(objects=(1, 1, 2), style_share=0.3)
TEMPERATURE = 0.1
MOVED_ON = 0.9  # share of clips whose background changes: where it stays, it suffices to tell clips apart


def frames(renderer: SceneRenderer, clip: int, size: int) -> torch.Tensor:
    """Two frames of each of ``size`` clips: ``[2 * size, 3, 64, 64]`` in -1..1, first all first frames."""
    first = renderer.batch(2 * clip, size, SPEC)
    rng = np.random.default_rng([renderer.seed, clip, 3])
    moved_on = rng.random(size) < MOVED_ON
    backgrounds = np.where(moved_on, rng.permutation(first.backgrounds), first.backgrounds)
    second = renderer.batch(2 * clip + 1, size, SPEC, concepts=first.concepts, backgrounds=backgrounds)
    return _camera(torch.cat([first.pixels, second.pixels]).float() / 127.5 - 1, rng)


def _camera(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random crop of 60 to 100 % of each side, mirrored or not, with brightness and contrast shifted."""
    n = len(pixels)
    scale = rng.uniform(0.6, 1.0, n)
    theta = np.zeros((n, 2, 3), dtype=np.float32)
    theta[:, :, 2] = rng.uniform(-1, 1, (n, 2)) * (1 - scale)[:, None]
    theta[:, 0, 0] = scale * rng.choice([-1, 1], n)
    theta[:, 1, 1] = scale
    grid = F.affine_grid(torch.from_numpy(theta), list(pixels.shape), align_corners=False)
    cropped = F.grid_sample(pixels, grid, align_corners=False, padding_mode="reflection")
    contrast, brightness = rng.uniform(0.6, 1.4, (n, 1, 1, 1)), rng.uniform(-0.3, 0.3, (n, 1, 1, 1))
    return (cropped * torch.from_numpy(contrast).float() + torch.from_numpy(brightness).float()).clamp(-1, 1)


class FrameContrast(torch.nn.Module):
    """The encoder and the loss."""

    def __init__(self, encoder: Dinov2Model):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for first and second frames, ``[2 * clips, 3, 64, 64]``."""
        embedded = F.normalize(self.encoder(pixels).pooler_output.float(), dim=-1)
        similarity = embedded @ embedded.T / TEMPERATURE
        similarity.fill_diagonal_(-torch.inf)
        partner = torch.arange(len(pixels), device=pixels.device).roll(len(pixels) // 2)
        hit = (similarity.argmax(1) == partner).float().mean()
        return F.cross_entropy(similarity, partner), {"hit": hit.item()}


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    batch: Annotated[int, typer.Option(help="Clips a step and process; each gives two frames.")] = 192,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.")] = 2,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    output: Annotated[Path, typer.Option(help="Folder of the published model.")] = HUB / "emoji-dino",
) -> None:
    """Train and publish the self-supervised encoder of Emoji World."""
    accelerator, renderer = begin(seed, precision)
    config = Dinov2Config(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=4, image_size=SIDE, patch_size=PATCH
    )
    encoder = Dinov2Model(config)
    encoder.set_attn_implementation("eager")  # trains faster on a CPU than the fused one; not saved

    def make_batch(index: int) -> tuple:
        return (frames(renderer, index, batch),)

    model = FrameContrast(encoder)
    train(model, make_batch, accelerator, run=RUNS / output.name, steps=steps, learning_rate=learning_rate)
    if accelerator.is_main_process:
        publish(output, encoder.save_pretrained, BitImageProcessor(**PREPROCESSING).save_pretrained)


if __name__ == "__main__":
    typer.run(main)
