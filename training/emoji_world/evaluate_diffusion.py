"""Draws captions with ``hub/emoji-diffusion`` and writes ``metrics.json`` and ``drawn.png`` beside it.

    python -m training.emoji_world.evaluate_diffusion

Captions name the object and the background of the first published test scenes with one object: "a pizza on grass".
Zero-shot top-1 over all concepts, in per cent, as emoji-judge and emoji-clip judge: canonical pictures of the captions
(``judge_canonical``), what the decoder makes of these pictures' latents (``judge_decoded``: no drawing can be better),
and what is drawn in 20 steps at a guidance of g, each caption with the seed of its row (``judge_drawn_g``). The same of
the 20 backgrounds (``judge_background_...``). The picture shows the first captions in these kinds.
"""

import json
from pathlib import Path
from typing import Annotated

import datasets
import torch
import typer
from diffusers import StableDiffusionPipeline

from cbsae_hub.hub.files import folder_revision, replace_file, write_text
from cbsae_hub.processes import make_accelerator
from training.emoji_world.captions import background_phrase, with_article
from training.emoji_world.evaluate import single_objects
from training.emoji_world.evaluate_unclip import STEPS, canonical, contact_sheet, decode, draw, judged
from training.emoji_world.glyphs import Atlas
from training.emoji_world.layer_code import LayerCode
from training.emoji_world.loop import use_two_threads
from training.emoji_world.paths import HUB
from training.emoji_world.train_autoencoder import CODE


def captions_of(scenes: datasets.Dataset) -> list[str]:
    """A caption of each scene with one object: "a pizza on grass"."""
    return [
        f"{with_article(objects[0]['name'])} {background_phrase(background)}"
        for objects, background in zip(scenes["objects"], scenes["background"])
    ]


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the pipeline.")] = HUB / "emoji-diffusion",
    guidance: Annotated[list[float], typer.Option(help="Guidance scale; may be given several times.")] = [1.0, 2.5],  # noqa: B006
    captions: Annotated[int, typer.Option(help="How many captions.")] = 100,
) -> None:
    """Measure, and write metrics.json and drawn.png."""
    use_two_threads()
    scenes = single_objects("test")
    scenes = scenes.select(range(min(len(scenes), captions)))
    texts = captions_of(scenes)
    atlas = Atlas.build()
    with torch.inference_mode():
        pipeline = StableDiffusionPipeline.from_pretrained(folder).to(make_accelerator(alone=True).device)
        pipeline.set_progress_bar_config(disable=True)
        decoded = decode(pipeline.vae, LayerCode.read(folder / "vae" / CODE), scenes, atlas)
        kinds = {"canonical": canonical(scenes, atlas), "decoded": decoded}
        for scale in guidance:
            kinds[f"drawn_{scale:g}"] = draw(pipeline, texts, scale, "prompt")
        figures = {"revision": folder_revision(folder), "captions": len(texts), "steps": STEPS}
        figures |= judged(kinds, [objects[0]["name"] for objects in scenes["objects"]], scenes["background"])
    write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
    with replace_file(folder / "drawn.png") as file:
        contact_sheet(list(kinds.values())).save(file, "png")
    typer.echo(f"{folder.name}: {json.dumps(figures)}")


if __name__ == "__main__":
    typer.run(main)
