"""Computes what the page needs of a scored model, beside the model in its folder, and renews the model's card.

    python training/build_pack.py runs/emoji-scores

Takes the scores that score_neurons.py or evaluate.py wrote, with steerability if that was measured, and reads the
example images once, as `cbsae pack MODEL --scores SCORES --overwrite` does.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cli.options import Device
from cbsae_hub.cli.sources import device_of
from cbsae_hub.pipeline.pack import make_pack
from cbsae_hub.scoring import headline
from cbsae_hub.scoring.build_pack import ALT_COLUMN


def main(
    scored: Annotated[Path, typer.Argument(metavar="SCORES", help="Folder that score_neurons.py wrote.")],
    model: Annotated[Path | None, typer.Option(help="Folder of the model; default the one that was scored.")] = None,
    alt_column: Annotated[str, typer.Option(help="Column that says what an image shows.")] = ALT_COLUMN,
    unclip: Annotated[str | None, typer.Option(help="Stable unCLIP that draws every neuron alone.")] = None,
    device: Device = None,
) -> None:
    """Build a model's pack from its scores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pack = make_pack(scored, model, alt_column=alt_column, device=device_of(device), unclip=unclip)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, value in headline(pack.info["scores"]).items():
        logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
