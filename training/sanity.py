"""Tests the scores of names and of truth: does a score fall when labels are wrong?

    python -m training.sanity --recipe training/recipes/emoji.yaml

Reads the sections `sanity` and `scores`, whose images have labels. Writes sanity.json (all shares and their ranges over
draws), .md and .png. The study is :mod:`cbsae_hub.studies.sanity`. Started again it goes on where it was killed.
"""

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from cbsae_hub.hub.files import replace_file, write_json, write_text
from cbsae_hub.pipeline.names import pass_over
from cbsae_hub.pipeline.sections import SanitySection, ScoresSection
from cbsae_hub.plots import plot_sanity
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.sanity import EPSILON, PASS, LabelledNeurons, as_markdown, run_tests

AMONG = ("sanity", "scores")


def measure(settings: SanitySection, scores: ScoresSection) -> pd.DataFrame:
    """The table of all scores and tests, for the model's neurons and for ideal ones."""
    if not scores.truth:
        raise ValueError("section `scores` lacks truth: the columns of labels")
    scorer = pass_over(scores, settings.output / "images", make_accelerator(alone=True).device)
    latents, labels = scorer.metrics["truth"].whole()
    kinds = {
        "neurons": LabelledNeurons.clear(
            latents, labels, settings.least_ap, settings.neurons, scorer.top_k, settings.seed
        ),
        "ideal neurons": LabelledNeurons.ideal(labels, scorer.top_k),
    }
    tables = [run_tests(labelled, settings.draws).assign(neurons=kind) for kind, labelled in kinds.items()]
    return pd.concat(tables, ignore_index=True)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; sections `sanity` and `scores` are read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Test whether scores fall when labels are halved or doubled; a Markdown table goes to standard output.

    --set is of section `sanity`; --set scores.KEY=VALUE of the other.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = SanitySection.read(recipe, overrides, among=AMONG)
        scores = ScoresSection.read(recipe, overrides, among=AMONG)
        table = measure(settings, scores)
        folder = settings.output
        write_text(folder / "sanity.md", as_markdown(table))
        with replace_file(folder / "sanity.png") as partial:
            plot_sanity(table, PASS).savefig(partial, format="png")
        content = {
            "settings": settings.to_dict(defaults=False) | {"scores": scores.recorded()},
            "falls_by_more_than": EPSILON,
            "passes_from": PASS,
            "rows": table.to_dict("records"),
        }
        write_json(folder / "sanity.json", content)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(as_markdown(table), nl=False)


if __name__ == "__main__":
    typer.run(main)
