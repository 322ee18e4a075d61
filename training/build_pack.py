"""Computes what the page needs of a scored model, beside the model in its folder, and renews the model's card.

    python training/build_pack.py runs/emoji-scores

Takes the scores that score_neurons.py or evaluate.py wrote, with steerability if that was measured, and reads the
example images once. Started again after a kill, it goes on where it was.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cards.write import write_card
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.formats.load import load
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import Scores, headline
from cbsae_hub.scoring.build_pack import ALT_COLUMN, build_pack
from cbsae_hub.scoring.card_pictures import write_pictures


def main(
    scored: Annotated[Path, typer.Argument(metavar="SCORES", help="Folder that score_neurons.py wrote.")],
    model: Annotated[Path | None, typer.Option(help="Folder of the model; default the one that was scored.")] = None,
    alt_column: Annotated[str, typer.Option(help="Column that says what an image shows.")] = ALT_COLUMN,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the fastest there is.")] = None,
) -> None:
    """Build a model's pack from its scores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        device = device or make_accelerator(alone=True).device
        scores = Scores.load(scored)
        settings = scores.summary["settings"]
        folder = model or Path(settings["model"])
        images = load_images(settings["images"], settings["split"], beside=folder)
        if len(images) != scores.summary["n_images"]:
            raise ValueError(f"the scores are of {scores.summary['n_images']} images, here are {len(images)}")
        sae = load(folder).to(device)
        pack = build_pack(
            scores,
            sae,
            explained_encoder(sae, settings.get("encoder"), device, beside=folder),
            images,
            folder,
            source={"id": settings["images"], "split": settings["split"]},
            alt_column=alt_column,
            batch_size=settings.get("batch_size", 64),
        )
        write_pictures(folder)
        write_card(folder)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, value in headline(pack.info["scores"]).items():
        logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
