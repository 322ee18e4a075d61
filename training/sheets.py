"""Draws a sheet of a dozen concepts: what discarded, retained and concept neurons make unCLIP draw and LLaVA say.

    python training/sheets.py --recipe training/recipes/emoji.yaml

Reads the recipe's CB-SAE and the scores by which it was pruned. Concepts are chosen by rule, not by result: those of
the bottleneck that a discarded neuron is named after and that are among the five names of a retained one, by the
discarded one's score. Writes sheet.png, and sheet.json with all sentences.
"""

import json
import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from cbsae_hub.hub.files import replace_file, write_text
from cbsae_hub.pipeline.sections import CBSAESection, ScoresSection, SteerabilitySection
from cbsae_hub.studies.sheets import SheetSettings, SheetStudy


def main(
    recipe: Annotated[Path, typer.Option(help="YAML file: sections `cbsae`, `scores` and `steerability` are read.")],
    output: Annotated[Path, typer.Option(help="Folder of the sheet.")] = Path("runs/sheet"),
    count: Annotated[int, typer.Option(help="Concepts.")] = 12,
    image: Annotated[int, typer.Option(help="Row of the scored images: the scene that LLaVA describes.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the fastest there is.")] = None,
) -> None:
    """Steer a dozen concepts by a discarded, a retained and a concept neuron, side by side."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        sections = (CBSAESection.read(recipe), ScoresSection.read(recipe), SteerabilitySection.read_or_default(recipe))
        study = SheetStudy(SheetSettings.of(*(section.to_dict() for section in sections)), count, image, device)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    sheet = study.run()
    output.mkdir(parents=True, exist_ok=True)
    with replace_file(output / "sheet.png") as partial:
        sheet.figure().savefig(partial, format="png")
    write_text(output / "sheet.json", json.dumps(sheet.record(), indent=1, ensure_ascii=False) + "\n")
    logging.info("%s", output / "sheet.png")


if __name__ == "__main__":
    typer.run(main)
