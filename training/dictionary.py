"""Tells what a dictionary says of itself without labels: is it found again from other seeds, and is it atomic?

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    python -m training.dictionary --recipe training/recipes/emoji.yaml

Reads the sections `dictionary`, `sae` and `scores`, whose folder has the scores. Trains SAEs from other seeds, adds the
columns that begin with ``seed_`` to the neuron table there, and writes dictionary.json and .md: neurons beside those of
SAEs that were never trained. docs/metrics.md says what is measured. Started again it goes on where it was killed.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.pipeline.dictionary import compare_seeds
from cbsae_hub.pipeline.sections import DictionarySection, SAESection, ScoresSection

AMONG = ("dictionary", "sae", "scores")


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; three of its sections are read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Compare the neurons of an SAE with those of other seeds; a Markdown table goes to standard output.

    --set is of section `dictionary`; --set sae.KEY=VALUE and scores.KEY=VALUE of the others.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = DictionarySection.read(recipe, overrides, among=AMONG)
        sections = (section.read(recipe, overrides, among=AMONG) for section in (SAESection, ScoresSection))
        compare_seeds(settings, *sections)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo((settings.output / "dictionary.md").read_text(encoding="utf-8"), nl=False)


if __name__ == "__main__":
    typer.run(main)
