"""Measures how strongly the neurons of an SAE steer CLIP's zero-shot answers, beside raw neurons and random directions.

    python training/zero_shot_steering.py --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.clip_sweep`. Everything is measured twice: on images of the recipe's split, and on
a white one, of which CLIP is less sure, so that an answer has less to lose. Writes neurons.parquet, and
zero_shot_steering.json (there a strength of null is the asymptote), .md and .png.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import replace_file, write_json, write_text
from cbsae_hub.pipeline.sections import ZeroShotSteeringSection
from cbsae_hub.plots import plot_zero_shot_steering
from cbsae_hub.processes import make_accelerator
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip import STRENGTHS
from cbsae_hub.studies.clip_sweep import ClipSweep, draw, sweep_clip


def image_sets(settings: ZeroShotSteeringSection) -> dict[str, list[Image.Image]]:
    """The images that are steered: some of the split, and a white one of their size."""
    source = load_images(settings.images, settings.split, beside=settings.model)
    images = source.select(draw(settings.images_count, len(source), "images_count", settings.seed))["image"][:]
    return {
        f"{len(images)} images ({settings.split})": images,
        "a white image": [Image.new("RGB", images[0].size, "white")],
    }


def save(folder: Path, sweep: ClipSweep, settings: dict[str, object]) -> None:
    """Writes everything that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / "neurons.parquet") as partial:
        sweep.neurons().to_parquet(partial, index=False)
    with replace_file(folder / "zero_shot_steering.png") as partial:
        plot_zero_shot_steering(sweep.tables(), sweep.gamma).savefig(partial, format="png")
    write_text(folder / "zero_shot_steering.md", sweep.as_markdown())
    write_json(folder / "zero_shot_steering.json", {"settings": settings, **sweep.record()})


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `zero_shot_steering` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Measure how strongly neurons steer CLIP's answers; a Markdown table goes to standard output."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = ZeroShotSteeringSection.read(recipe, overrides)
        strengths = list(settings.strengths or STRENGTHS)
        words, device = ConceptSet.load(settings.vocabulary), make_accelerator(alone=True).device
        where = {"device": device, "beside": settings.model}
        steerer = ClipZeroShotSteerer.from_pretrained(settings.clip, settings.model, words, **where)
        neurons = None if settings.neurons == "all" else settings.neurons
        options = settings.chosen("gamma", "beta", "seed")
        sweep = sweep_clip(steerer, image_sets(settings), strengths=strengths, neurons=neurons, **options)
        save(settings.output, sweep, settings.to_dict() | {"strengths": strengths})
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(sweep.as_markdown(), nl=False)


if __name__ == "__main__":
    typer.run(main)
