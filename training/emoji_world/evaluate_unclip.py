"""Draws the published test scenes with ``hub/emoji-unclip`` and writes ``metrics.json`` and ``drawn.png`` beside it.

    python -m training.emoji_world.evaluate_unclip
    python -m training.emoji_world.evaluate_unclip --reconstructions  # where only the autoencoder is trained yet

Zero-shot top-1 over all concepts, in per cent, on scenes with one object, as emoji-judge and emoji-clip judge: the
scene itself (``judge_original``), its canonical picture (``judge_canonical``), what the decoder makes of that picture's
latents (``judge_decoded``: no drawing can be better), what the whole autoencoder makes of it
(``judge_reconstructed``), and what is drawn from the scene's embedding in 20 steps at a guidance of g, each scene with
the seed of its row (``judge_drawn_g``). The same of the 20 backgrounds (``judge_background_...``). The picture shows
the first scenes: original, canonical picture, decoded, reconstruction and drawings in a column of their own.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import datasets
import numpy as np
import torch
import typer
from diffusers import AutoencoderDC, AutoencoderKL, DiffusionPipeline, StableUnCLIPImg2ImgPipeline
from PIL import Image
from tqdm import tqdm

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import folder_revision, replace_file, write_text
from cbsae_hub.pictures import to_rgb
from cbsae_hub.processes import make_accelerator
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.evaluate import Judge, share, single_objects, transformers_clip
from training.emoji_world.glyphs import Atlas
from training.emoji_world.latents import encode
from training.emoji_world.layer_code import LayerCode
from training.emoji_world.loop import use_two_threads
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, SIDE, STYLES, canonical_pictures
from training.emoji_world.train_autoencoder import CODE

STEPS = 20
BATCH = 64
COLUMNS = 16  # scenes in the picture
ENLARGED = 2


def load_judges() -> dict[str, Judge]:
    """The judge, by which nothing was trained, and the explained encoder itself."""
    judge = ClipLike.from_pretrained(HUB / "emoji-judge")
    clip = transformers_clip(HUB / "emoji-clip")
    return {"judge": Judge(judge.embed_images, judge.embed_texts), "clip": Judge(*clip)}


def contents(dataset: datasets.Dataset, atlas: Atlas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concepts ``[n, 3]``, backgrounds ``[n]`` and styles ``[n]`` of a published split's scenes."""
    names = [concept.name for concept in atlas.concepts]
    concepts = np.full((len(dataset), 3), NO_OBJECT)
    for row, objects in zip(concepts, dataset["objects"]):
        row[: len(objects)] = [names.index(thing["name"]) for thing in objects]
    backgrounds = np.array([BACKGROUNDS.index(name) for name in dataset["background"]])
    return concepts, backgrounds, np.array([STYLES.index(name) for name in dataset["style"]])


def canonical(dataset: datasets.Dataset, atlas: Atlas) -> list[Image.Image]:
    """The canonical pictures of a published split's scenes."""
    return _images(canonical_pictures(atlas, *contents(dataset, atlas)))


def decode(
    vae: AutoencoderDC | AutoencoderKL, code: LayerCode, dataset: datasets.Dataset, atlas: Atlas
) -> list[Image.Image]:
    """Decodes the latents of a published split's scenes."""
    parts = encode(code, atlas, *contents(dataset, atlas)).split(BATCH)
    return [image for part in parts for image in _decoded(vae, part.float().to(vae.device))]


def reconstruct(vae: AutoencoderDC, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures after the autoencoder."""
    rebuilt = []
    for start in range(0, len(pictures), BATCH):
        pixels = np.stack([np.asarray(picture) for picture in pictures[start : start + BATCH]])
        normal = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(vae.device).float() / 127.5 - 1
        rebuilt += _decoded(vae, vae.encode(normal).latent)
    return rebuilt


def _decoded(vae: AutoencoderDC | AutoencoderKL, latents: torch.Tensor) -> list[Image.Image]:
    return _images(vae.decode(latents).sample.clamp(-1, 1).add(1).mul(127.5).round().byte().cpu())


def _images(pixels: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).numpy()]


def draw(
    pipeline: DiffusionPipeline, inputs: Sequence[Image.Image] | Sequence[str], guidance: float, kind: str = "image"
) -> list[Image.Image]:
    """A drawing from each input, which the pipeline calls ``kind``; the noise of the i-th has the seed i."""
    drawn = []
    for start in tqdm(range(0, len(inputs), BATCH), desc=f"guidance {guidance:g}", unit="batch"):
        part = list(inputs[start : start + BATCH])
        options = {kind: part, "num_inference_steps": STEPS, "guidance_scale": guidance}
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        drawn += pipeline(**options, generator=generators).images
    return drawn


def judged(
    kinds: dict[str, Sequence[Image.Image]], concepts: Sequence[str], backgrounds: Sequence[str]
) -> dict[str, float]:
    """Shares in which both judges name the concept and the background of each kind of pictures, in per cent."""
    figures = {}
    for name, judge in load_judges().items():
        for kind, images in kinds.items():
            figures[f"{name}_{kind}"] = round(share(judge.answers(images), concepts), 4)
            figures[f"{name}_background_{kind}"] = round(share(judge.backgrounds(images), backgrounds), 4)
    return figures


def contact_sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """The first pictures of each row, one row below the other, enlarged."""
    side = SIDE * ENLARGED
    sheet = Image.new("RGB", (side * min(COLUMNS, len(rows[0])), side * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row[:COLUMNS]):
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x * side, y * side))
    return sheet


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the pipeline.")] = HUB / "emoji-unclip",
    guidance: Annotated[list[float], typer.Option(help="Guidance scale; may be given several times.")] = [10.0],  # noqa: B006
    scenes: Annotated[int | None, typer.Option(help="How many of the test scenes; default all.")] = None,
    reconstructions: Annotated[
        bool, typer.Option("--reconstructions", help="Only the autoencoder is measured; nothing is drawn.")
    ] = False,
) -> None:
    """Measure, and write metrics.json and drawn.png."""
    use_two_threads()
    device = make_accelerator(alone=True).device
    dataset = single_objects("test")
    dataset = dataset.select(range(min(len(dataset), scenes or len(dataset))))
    pictures = [to_rgb(image) for image in dataset["image"]]
    atlas = Atlas.build()
    targets = canonical(dataset, atlas)
    truth = [objects[0]["name"] for objects in dataset["objects"]]
    with torch.inference_mode():
        vae = AutoencoderDC.from_pretrained(folder / "vae").to(device)
        decoded = decode(vae, LayerCode.read(folder / "vae" / CODE), dataset, atlas)
        kinds = {"original": pictures, "canonical": targets, "decoded": decoded}
        kinds["reconstructed"] = reconstruct(vae, targets)
        if not reconstructions:
            pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(folder).to(device)
            pipeline.set_progress_bar_config(disable=True)
            for scale in guidance:
                kinds[f"drawn_{scale:g}"] = draw(pipeline, pictures, scale)
        figures = {"revision": folder_revision(folder), "scenes": len(pictures), "steps": STEPS}
        figures |= judged(kinds, truth, dataset["background"])
    write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
    with replace_file(folder / "drawn.png") as file:
        contact_sheet(list(kinds.values())).save(file, "png")
    typer.echo(f"{folder.name}: {json.dumps(figures)}")


if __name__ == "__main__":
    typer.run(main)
