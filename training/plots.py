"""Draws the papers' figures from what score_neurons.py wrote, of one model or of several beside each other.

python training/plots.py runs/emoji-scores --output runs/emoji-plots
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub import NeuronTable
from cbsae_hub import plots as plotting
from cbsae_hub.cli.sources import open_image
from cbsae_hub.hub.files import read_json, replace_file

FORMATS = ("png", "svg", "pdf")


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders with neurons.parquet and scores.json.")],
    output: Annotated[Path, typer.Option(help="Folder of the figures.")],
    format: Annotated[str, typer.Option(help="png, svg or pdf.")] = "png",
    image: Annotated[Path | None, typer.Option(help="Picture to draw the map of L0 over.")] = None,
    threshold: Annotated[
        str, typer.Option(help="Where 'high' begins in the quadrants: mean, median, number.")
    ] = "mean",
) -> None:
    """Draw the figures that the scores allow, and name the others."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if format not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
        if len({folder.resolve().name for folder in folders}) < len(folders):
            raise ValueError("two folders have the same name: figures could not tell them apart")
        tables = {folder.resolve().name: NeuronTable.read(folder).frame for folder in folders}
        scores = {folder.resolve().name: read_json(folder / "scores.json") for folder in folders}
        picture = image and open_image(str(image))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    limit = threshold if threshold in ("mean", "median") else float(threshold)
    populations = {summary["monosemanticity"]["population"] for summary in scores.values()}
    figures = {
        "monosemanticity": lambda: plotting.plot_monosemanticity(
            {name: frame["monosemanticity"] for name, frame in tables.items()},
            populations.pop() if len(populations) == 1 else None,
        ),
        "coverage": lambda: plotting.plot_coverage({name: summary["coverage"] for name, summary in scores.items()}),
    }
    for name, frame in tables.items():
        figures |= {
            f"{name}-quadrants": lambda frame=frame: plotting.plot_quadrants(frame, limit),
            f"{name}-histograms": lambda frame=frame, l0=scores[name]["l0"]: plotting.plot_histograms(frame, l0),
            f"{name}-l0-map": lambda l0=scores[name]["l0"]: plotting.plot_patch_map(l0["patch_map"] or [], picture),
        }
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        try:
            figure = draw()
        except ValueError as reason:
            logging.info("%s: not drawn, %s", name, reason)
            continue
        with replace_file(output / f"{name}.{format}") as partial:
            figure.savefig(partial, format=format)
        logging.info("%s", output / f"{name}.{format}")


if __name__ == "__main__":
    typer.run(main)
