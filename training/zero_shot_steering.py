"""Measures how strongly the neurons of an SAE steer CLIP's zero-shot answers, beside raw neurons and random directions.

    python training/zero_shot_steering.py --recipe training/recipes/emoji.yaml

After "Steering CLIP's vision transformer with sparse autoencoders", section 6. All three are set to the same strengths
at the same block on the same images. That is fair because decoder rows, dimensions and random directions are unit
vectors: a strength displaces activations equally far along each. Everything is measured twice: on images of the
recipe's split, and on a white one, of which CLIP is less sure, so that an answer has less to lose. Writes
neurons.parquet, and zero_shot_steering.json (there a strength of null is the asymptote), .md and .png.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from accelerate import Accelerator
from PIL import Image

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import plain, replace_file
from cbsae_hub.metrics.zero_shot_steering import ZeroShotScores, summarise, uniform_s_f
from cbsae_hub.models.checks import integer
from cbsae_hub.plots import plot_zero_shot_steering
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip import STRENGTHS
from cbsae_hub.steering.latents import RawNeurons
from training.recipes import ZeroShotSteeringSection
from training.result_tables import markdown_table


def draw(count: int, of: int, what: str, seed: int) -> list[int]:
    """Numbers of some of the images or neurons, ascending."""
    return sorted(np.random.default_rng(seed).choice(of, integer(what, count, 1, of), replace=False).tolist())


def image_sets(settings: ZeroShotSteeringSection) -> dict[str, list[Image.Image]]:
    """What is steered: images of the split, and a white one of their size."""
    source = load_images(settings.images, settings.split, beside=settings.model)
    numbers = draw(settings.images_count, len(source), "images_count", settings.seed)
    pictures = source.select(numbers)["image"][:]
    return {
        f"{len(pictures)} images ({settings.split})": pictures,
        "a white image": [Image.new("RGB", pictures[0].size, "white")],
    }


def strengths(settings: ZeroShotSteeringSection) -> list[float]:
    """The strengths that neurons are set to."""
    return list(settings.strengths or STRENGTHS)


def steerers(settings: ZeroShotSteeringSection, device: Any) -> dict[str, ClipZeroShotSteerer]:
    """One CLIP with the SAE, its raw neurons, and random directions at the same block."""
    words = ConceptSet.load(settings.vocabulary)
    sae = ClipZeroShotSteerer.from_pretrained(
        settings.clip, settings.model, words, device=device, beside=settings.model
    )
    shared = sae.model, sae.image_processor, sae.tokenizer
    width, layer = sae.tower.sae.d_in, sae.tower.layer
    return {
        "SAE": sae,
        "raw neurons": ClipZeroShotSteerer(*shared, RawNeurons(width, layer), words),
        "random directions": ClipZeroShotSteerer(*shared, RawNeurons(width, layer, settings.seed), words),
    }


def measure(
    by_name: dict[str, ClipZeroShotSteerer], images: list[Image.Image], settings: ZeroShotSteeringSection
) -> tuple[dict[str, list[ZeroShotScores]], float]:
    """Sweeps on one set of images, and the S_f of answers that only become uniform."""
    chosen, sae = None, by_name["SAE"]
    if settings.neurons != "all":
        chosen = draw(settings.neurons, sae.tower.sae.d_latent, "neurons", settings.seed)
    sweeps = {
        name: one.sweep(images, chosen if one is sae else None, strengths(settings)) for name, one in by_name.items()
    }
    return sweeps, uniform_s_f(sae.distribution(sae.embed(sae.activations(images))))


def as_markdown(tables: dict[str, pd.DataFrame], uniform: dict[str, float], gamma: float, beta: float) -> str:
    """The table as it stands in the documentation."""

    def cell(values: pd.Series, form: str = "{:.3f}") -> str:
        return " / ".join(form.format(value) if np.isfinite(value) else "-" for value in values)

    rows = []
    for images, table in tables.items():
        for strength, part in table.groupby("strength"):
            rows.append(
                {
                    "images": images,
                    "strength": f"{strength:g}" if np.isfinite(strength) else "asymptote",
                    f"S_f > {gamma:g}, %": cell(100 * part["share_above_gamma"], "{:.1f}"),
                    "ratio": cell(part["ratio_above_gamma"][1:], "{:.1f}"),
                    f"S_f > loss + {gamma:g}, %": cell(100 * part["share_beyond_loss"], "{:.1f}"),
                    "ratio beyond loss": cell(part["ratio_beyond_loss"][1:], "{:.1f}"),
                    f"S_f > {beta:g}": cell(part["count_above_beta"], "{:d}"),
                    "mean S_f": cell(part["layer_s"]),
                    "words covered, %": cell(100 * part["concept_coverage"], "{:.1f}"),
                    "D_f": cell(part["distance"]),
                    "TV": cell(part["total_variation"]),
                }
            )
    lost = ", ".join(f"{value:.3f} ({images})" for images, value in uniform.items())
    return (
        "SAE / raw neurons / random directions; ratios: the SAE's share over that of the other two. "
        f"Loss, the S_f of answers that only become uniform: {lost}.\n\n" + markdown_table(pd.DataFrame(rows))
    )


def save(
    settings: ZeroShotSteeringSection,
    sweeps: dict[str, dict[str, list[ZeroShotScores]]],
    uniform: dict[str, float],
) -> str:
    """Writes everything that was measured, and returns the table."""
    folder, gamma, beta = settings.output, settings.gamma, settings.beta
    tables = {images: summarise(of_images, gamma, beta, uniform[images]) for images, of_images in sweeps.items()}
    neurons = pd.concat(
        [
            scores.frame().assign(images=images, neurons_of=name, strength=scores.strength)
            for images, of_images in sweeps.items()
            for name, sweep in of_images.items()
            for scores in sweep
        ]
    )
    text = as_markdown(tables, uniform, gamma, beta)
    told = {
        "settings": settings.to_dict() | {"strengths": strengths(settings)},
        "uniform_s_f": uniform,
        "rows": [{"images": images, **row} for images, table in tables.items() for row in table.to_dict("records")],
    }
    figure = plot_zero_shot_steering(tables, gamma)
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (
        ("neurons.parquet", lambda path: neurons.to_parquet(path, index=False)),
        ("zero_shot_steering.png", lambda path: figure.savefig(path, format="png")),
        ("zero_shot_steering.md", lambda path: path.write_text(text, encoding="utf-8")),
        ("zero_shot_steering.json", lambda path: path.write_text(json.dumps(plain(told), indent=1) + "\n")),
    ):
        with replace_file(folder / name) as partial:
            write(partial)
    return text


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `zero_shot_steering` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Measure how strongly neurons steer CLIP's answers; a Markdown table goes to standard output."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sweeps, uniform = {}, {}
    try:
        settings = ZeroShotSteeringSection.read(recipe, overrides)
        by_name = steerers(settings, Accelerator().device)
        for name, images in image_sets(settings).items():
            logging.info("%s", name)
            sweeps[name], uniform[name] = measure(by_name, images, settings)
        text = save(settings, sweeps, uniform)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(text, nl=False)


if __name__ == "__main__":
    typer.run(main)
