"""Trains the explained encoder ``hub/emoji-clip``, or with ``--teacher`` a smaller CLIP that teaches or judges.

    accelerate launch -m training.emoji_world.pretrain_clip
    accelerate launch -m training.emoji_world.pretrain_clip --sketches
    accelerate launch -m training.emoji_world.pretrain_clip --reader
    accelerate launch -m training.emoji_world.pretrain_clip --teacher
    accelerate launch -m training.emoji_world.pretrain_clip --teacher --seed 3 --output hub/emoji-judge

A bottleneck learns from the teacher, so that another model of the same kind has to judge what it learned.

Two contrasts in one loss: each scene against the captions of its batch (CLIP), and each scene against the names of
all concepts, backgrounds and styles, several of which may be right. The second one shows every step all the negatives
that a batch of captions rarely holds. The explained encoder has a third one: patches of its second-last layer, the
layer that LLaVA reads, against the names of concepts and backgrounds; right is what the patch shows. A CLIP trained on
400 million pictures has such patches by itself; this one, whose loss would else read the CLS token alone, has not.
Interrupted runs go on where their last checkpoint was.

Sketches are learned last: ``--sketches`` trains hub/emoji-clip on, with more of them, when it knows all else.

emoji-clip hardly reads words, as captions say that words are on labels. With ``--reader`` a copy of it learns to: a
quarter of its scenes are labels alone, and the word is what they are called. Typographic attacks work on it.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from transformers import AutoTokenizer, CLIPModel

from training.emoji_world import clip_models
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import captions, names_of_everything, train_tokenizer
from training.emoji_world.clip_models import PATCH
from training.emoji_world.loop import begin, train
from training.emoji_world.paths import HUB, RUNS
from training.emoji_world.render import NO_OBJECT, SIDE, STYLES, SceneRenderer, Scenes, SceneSpec

# Greyscale and sketches take away the colours that tell most emoji apart, and are learned last: when each was 12 % of
# 3,000 steps, 35 % of greyscale scenes and 4 % of sketches were recognised, and 97 % of plain ones.
STYLE_DRAWS = (*["greyscale"] * 3, *["sketch"] * 5, "pixelated", "blurred")
SPEC = SceneSpec(objects=(1, 1, 2, 3), style_share=0.5, word_share=0.12, styles=STYLE_DRAWS)
SKETCHES = SceneSpec(objects=(1, 1, 2, 3), style_share=0.6, word_share=0.12, styles=("greyscale", *["sketch"] * 3))
LABEL_ALONE = SceneSpec(objects=(0,), word_share=1.0)
PATCHES_READ = 16  # patches a scene that the third contrast looks at


class Plan(NamedTuple):
    """Settings of a training that were not given."""

    seed: int
    steps: int
    learning_rate: float = 1e-3


PLANS = {"encoder": Plan(0, 6000), "teacher": Plan(1, 4000), "sketches": Plan(7, 1100, 5e-4), "reader": Plan(6, 3000)}


class ContrastiveModel(torch.nn.Module):
    """The loss of a CLIP of either library, as one module for Accelerate to wrap."""

    def __init__(self, clip: torch.nn.Module):
        super().__init__()
        self.clip = clip

    def forward(  # noqa: D102
        self,
        pixels: torch.Tensor,
        caption_ids: torch.Tensor,
        name_ids: torch.Tensor,
        targets: list[torch.Tensor],
        patches: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        if patches is None:
            images = clip_models.embed_images(self.clip, pixels)
        else:
            which, contents = patches
            images, read = clip_models.embed_images_and_patches(self.clip, pixels, which)
        texts, names = (clip_models.embed_text(self.clip, ids) for ids in (caption_ids, name_ids))
        scale = clip_models.logit_scale(self.clip)
        logits = scale * images @ texts.T
        matches = torch.arange(len(images), device=images.device)
        contrast = (F.cross_entropy(logits, matches) + F.cross_entropy(logits.T, matches)) / 2
        parts = names.split([target.shape[1] for target in targets])  # each a softmax of its own
        concept, background, style = (
            F.cross_entropy(scale * images @ part.T, target) for part, target in zip(parts, targets)
        )
        loss = contrast + concept + 0.3 * background + 0.2 * style
        figures = {"contrast": contrast.item(), "concepts": concept.item(), "background": background.item()}
        if patches is not None:
            logits = scale * read.flatten(0, 1) @ names[: contents.shape[-1]].T
            wrong = F.cross_entropy(logits, contents.flatten(0, 1))
            loss, figures["patches"] = loss + 0.5 * wrong, wrong.item()
        return loss, figures


def _targets(scenes: Scenes, concepts: int) -> list[torch.Tensor]:
    """Shares of the right names: objects share one equally; background and style have one name each.

    The right name of a label without an object is its word.
    """
    alone = (scenes.concepts == NO_OBJECT).all(1)
    names = np.concatenate([scenes.concepts, np.where(alone, scenes.words, NO_OBJECT)[:, None]], 1)
    objects = torch.zeros(len(scenes), concepts + 1)
    objects.scatter_(1, torch.from_numpy(names) % (concepts + 1), 1.0)  # -1 falls on the column cut off below
    objects = objects[:, :concepts]
    background = F.one_hot(torch.from_numpy(scenes.backgrounds), len(BACKGROUNDS)).float()
    style = F.one_hot(torch.from_numpy(scenes.styles), len(STYLES)).float()
    return [objects / objects.sum(1, keepdim=True), background, style]


def patch_targets(scenes: Scenes, concepts: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Some patches of each scene, ``[n, PATCHES_READ]``, and shares of what they show among concepts and backgrounds.

    A patch shows the objects in whose box's ellipse its centre lies, and where there is none the background.
    """
    grid = SIDE // PATCH
    patches = rng.permuted(np.tile(np.arange(grid * grid), (len(scenes), 1)), axis=1)[:, :PATCHES_READ]
    centres = np.stack([patches % grid, patches // grid], -1) * PATCH + PATCH / 2  # [n, patches, (x, y)]
    low, high = scenes.boxes[:, None, :, :2], scenes.boxes[:, None, :, 2:]
    distance = (2 * (centres[:, :, None] - (low + high) / 2) / np.maximum(high - low, 1)) ** 2
    inside = (distance.sum(-1) <= 1) & (scenes.concepts != NO_OBJECT)[:, None]  # [n, patches, 3]
    visible = np.concatenate([inside, ~inside.any(-1, keepdims=True)], -1)
    columns = np.concatenate([scenes.concepts, concepts + scenes.backgrounds[:, None]], 1).clip(0)  # [n, 3 and 1]
    index = torch.from_numpy(columns)[:, None].expand(visible.shape)
    shares = torch.zeros(*patches.shape, concepts + len(BACKGROUNDS))
    shares.scatter_add_(2, index, torch.from_numpy(visible).float())
    return torch.from_numpy(patches), shares / shares.sum(-1, keepdim=True)


def reader_scenes(renderer: SceneRenderer, index: int, size: int) -> Scenes:
    """One batch for an encoder that reads: three quarters as for any other, and a quarter labels on backgrounds."""
    alone = size // 4
    return Scenes.joined(renderer.batch(index, size - alone, SPEC), renderer.batch(index, alone, LABEL_ALONE))


def main(
    teacher: Annotated[bool, typer.Option(help="Train the smaller model instead of the explained encoder.")] = False,
    sketches: Annotated[bool, typer.Option(help="Train hub/emoji-clip on, with more sketches.")] = False,
    reader: Annotated[bool, typer.Option(help="Train a copy of hub/emoji-clip on, so that it reads words.")] = False,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; default 6,000, of others as in PLANS.")] = None,
    batch: Annotated[int, typer.Option(help="Scenes a step and process.")] = 192,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the cosine schedule; default likewise.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and scenes; default likewise.")] = None,
    precision: Annotated[str, typer.Option(help="Accelerate's mixed precision: no, bf16 or fp16.")] = "bf16",
    output: Annotated[Path | None, typer.Option(help="Folder of the published model.")] = None,
) -> None:
    """Train and publish a CLIP model of Emoji World."""
    if teacher + sketches + reader > 1:
        raise typer.BadParameter("--teacher, --sketches and --reader are different trainings: choose one")
    output = output or (RUNS / "emoji-clip-reader" if reader else HUB / ("emoji-teacher" if teacher else "emoji-clip"))
    plan = PLANS["teacher" if teacher else "sketches" if sketches else "reader" if reader else "encoder"]
    seed = plan.seed if seed is None else seed
    steps, learning_rate = steps or plan.steps, learning_rate or plan.learning_rate
    accelerator, renderer = begin(seed, precision)
    concepts = renderer.atlas.concepts
    clip: torch.nn.Module
    if reader or sketches:
        clip = CLIPModel.from_pretrained(HUB / "emoji-clip", attn_implementation="eager")  # as clip_models.build does
        tokenizer = AutoTokenizer.from_pretrained(HUB / "emoji-clip")
    else:
        tokenizer = train_tokenizer(_corpus(renderer))
        clip = clip_models.build(tokenizer, teacher)

    def make_batch(index: int) -> tuple:
        rng = np.random.default_rng([seed, index, 2])
        spec = SKETCHES if sketches else SPEC
        scenes = reader_scenes(renderer, index, batch) if reader else renderer.batch(index, batch, spec)
        texts, names = (
            tokenizer(lines, padding=True, truncation=True, return_tensors="pt").input_ids
            for lines in (captions(scenes, concepts, rng), names_of_everything(concepts, rng))
        )
        patches = None if teacher else patch_targets(scenes, len(concepts), rng)
        return scenes.pixels.float() / 127.5 - 1, texts, names, _targets(scenes, len(concepts)), patches

    model = ContrastiveModel(clip)
    run = RUNS / (f"{output.name}-sketches" if sketches else output.name)
    train(model, make_batch, accelerator, run=run, steps=steps, learning_rate=learning_rate)
    if accelerator.is_main_process:
        clip_models.publish_clip(clip, tokenizer, output, teacher)


def _corpus(renderer: SceneRenderer) -> list[str]:
    """The texts that the tokenizer learns from: captions of a few thousand scenes, and all the names."""
    rng, concepts = np.random.default_rng(0), renderer.atlas.concepts
    texts = [text for i in range(16) for text in captions(renderer.batch(i, 256, SPEC), concepts, rng)]
    return texts + [concept.name for concept in concepts] * 3


if __name__ == "__main__":
    typer.run(main)
