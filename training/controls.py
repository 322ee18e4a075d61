"""Makes nonsense of the data that an SAE was trained on, and scores it as the SAE was scored.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    python -m training.controls --recipe training/recipes/emoji.yaml

Reads the sections `controls`, `sae`, `scores` and, if neurons are steered, `steerability`. Writes controls.json and
.md, and puts the figures beside the model and into its card. docs/training.md says what the controls are. Started again
it goes on where it was killed.
"""

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from cbsae_hub.hub.files import write_text
from cbsae_hub.pipeline.controls import measure_controls
from cbsae_hub.pipeline.sections import ControlsSection, SAESection, ScoresSection, SteerabilitySection
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.words import number

AMONG = ("controls", "sae", "scores", "steerability")


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; four of its sections are read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Train and score controls; a Markdown table goes to standard output.

    --set is of section `controls`; --set sae.KEY=VALUE, scores.KEY=VALUE, steerability.KEY=VALUE of the others.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = ControlsSection.read(recipe, overrides, among=AMONG)
        steering = SteerabilitySection.read(recipe, overrides, among=AMONG) if settings.steered else None
        figures = measure_controls(
            settings,
            SAESection.read(recipe, overrides, among=AMONG),
            ScoresSection.read(recipe, overrides, among=AMONG),
            steering,
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    frame = pd.DataFrame(figures).T.map(lambda value: number(value, missing=""))
    table = markdown_table(frame.reset_index(names="model"))
    write_text(settings.output / "controls.md", table)
    typer.echo(table, nl=False)


if __name__ == "__main__":
    typer.run(main)
