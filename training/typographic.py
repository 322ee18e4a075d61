"""Attacks CLIP with words on pictures, and compares what defends it: SAE features set to zero, a learnt prefix, both.

    python -m training.typographic --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.typographic`, section 7.2 of "Steering CLIP's vision transformer with sparse
autoencoders". Writes typographic.json (every figure of every seed), typographic.md, sweep.png and examples.png. Run it
again to go on where it was interrupted: finished seeds are kept.
"""

import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from cbsae_hub.data.images import load_images
from cbsae_hub.data.text_attack import TextAttack
from cbsae_hub.data.typographic import LabelledImages, read_benchmark
from cbsae_hub.hub.files import claim, plain, read_json, replace_file, write_json, write_text
from cbsae_hub.models.checks import integer
from cbsae_hub.pictures import to_rgb
from cbsae_hub.pipeline.extract import extract
from cbsae_hub.pipeline.recipe import load_function
from cbsae_hub.pipeline.sections import ActivationsSection, SAESection, TypographicSection
from cbsae_hub.pipeline.train import train
from cbsae_hub.plots import plot_sheet, plot_typographic_sweep
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.studies.typographic import (
    DEFENCES,
    LAMBDAS,
    TAUS,
    TypographicSettings,
    TypographicStudy,
    as_markdown,
    summary,
)


def labelled(settings: TypographicSection, split: str) -> LabelledImages:
    """The pictures of a split that have exactly one label.

    Raises:
        ValueError: If none has.
    """
    images = load_images(settings.images, split, beside=settings.model)
    names, which = Truth.read(images, {"label": settings.label}, min_images=1).classes()
    rows = np.flatnonzero(which >= 0)
    if not len(rows):
        raise ValueError(f"no picture of the split {split!r} has exactly one label in the column {settings.label!r}")
    return LabelledImages(lambda i: to_rgb(images[int(rows[i])]["image"]), tuple(names[which[row]] for row in rows))


def drawn(images: LabelledImages, **counts: int) -> list[LabelledImages]:
    """Some of the pictures for each setting, none twice; raises a ValueError that names it if there are too few."""
    order, parts, free = np.random.default_rng(0).permutation(len(images)), [], len(images)
    for name, count in counts.items():
        rows = order[len(images) - free :][: integer(name, count, 1, free)]
        free -= count
        parts.append(images.select(sorted(rows.tolist())))
    return parts


def make_sae(settings: TypographicSection) -> None:
    """Trains the SAE by its recipe, if there is one and the SAE is not there.

    Raises:
        ValueError: If the recipe writes it elsewhere.
    """
    if settings.model_recipe is None or (Path(settings.model) / "config.json").is_file():
        return
    activations, sae = ActivationsSection.read(settings.model_recipe), SAESection.read(settings.model_recipe)
    if sae.output != Path(settings.model):
        raise ValueError(f"{settings.model_recipe} writes its SAE to {sae.output}, but model is {settings.model}")
    extract(activations)
    train(sae, resume=True)


def make_study(settings: TypographicSection) -> TypographicStudy:
    """Loads everything that the recipe names."""
    attack = load_function(settings.attack) if settings.attack else TextAttack(settings.fonts)
    benchmarks = {name: read_benchmark(folder) for name, folder in settings.benchmarks.items()}
    both = labelled(settings, settings.split), labelled(settings, settings.test_split)
    finding, validation = drawn(both[0], count=settings.count, validation_count=settings.validation_count)
    (test,) = drawn(both[1], test_count=settings.test_count)
    classes = sorted({*both[0].labels, *both[1].labels})
    if len(classes) < 2:
        raise ValueError(f"all pictures have the label {classes[0]!r}: an attack needs another class to write")
    make_sae(settings)
    where = {"device": make_accelerator(alone=True).device, "beside": settings.model, "template": settings.template}
    steerer = ClipZeroShotSteerer.from_pretrained(settings.clip, settings.model, classes, **where)
    tried = TypographicSettings(
        settings.taus or TAUS,
        settings.lambdas or LAMBDAS,
        settings.templates or (settings.template,),
        settings.prefix_rates,
        {"epochs": settings.prefix_epochs, "batch": settings.prefix_batch},
    )
    return TypographicStudy(steerer, settings.template, finding, validation, test, attack, benchmarks, tried)


def save(folder: Path, study: TypographicStudy, runs: dict[int, dict[str, Any]], settings: dict[str, Any]) -> str:
    """Writes everything that was measured; returns the table."""
    rows, sweep = (pd.DataFrame([row for run in runs.values() for row in run[name]]) for name in ("rows", "sweep"))
    table = summary(rows)
    text = as_markdown(table, len(runs))
    record = {"settings": settings, "summary": table.to_dict("records"), "seeds": runs}
    write_json(folder / "typographic.json", record)
    write_text(folder / "typographic.md", text)
    prefix = pd.DataFrame([run["validation"] for run in runs.values()]).mean().to_dict()
    with replace_file(folder / "sweep.png") as partial:
        plot_typographic_sweep(sweep, prefix).savefig(partial, format="png")
    seed, run = next(iter(runs.items()))
    clean, attacked = study.pictures["test"], study.pictures["test"].attacked(study.attack, study.classes, seed)
    cells = [
        [
            (clean.open(one["picture"]), one["label"]),
            (attacked.open(one["picture"]), "\n".join(f"{name}: {one['answers'][name]}" for name in DEFENCES)),
        ]
        for one in run["examples"]
    ]
    columns, names = ("without a word", "attacked, and the answers"), [one["label"] for one in run["examples"]]
    with replace_file(folder / "examples.png") as partial:
        plot_sheet(cells, names, columns, f"Test pictures, seed {seed}").savefig(partial, format="png")
    return text


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `typographic` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Compare defences against words on pictures; a Markdown table goes to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = TypographicSection.read(recipe, overrides)
        decisive = {key: value for key, value in settings.to_dict().items() if key not in ("output", "seeds")}
        study = make_study(settings)
        claim(settings.output, decisive)
        runs: dict[int, dict[str, Any]] = {}
        for seed in settings.seeds:
            file = settings.output / f"seed-{seed}.json"
            if not file.is_file():
                write_json(file, study.run(seed))
            runs[seed] = read_json(file)
        text = save(settings.output, study, runs, plain(settings.to_dict()))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(text, nl=False)


if __name__ == "__main__":
    typer.run(main)
