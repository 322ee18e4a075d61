"""Scores the neurons of an SAE, computes what the page needs, beside the model in its folder, and renews its card.

    python training/build_pack.py --recipe training/recipes/emoji.yaml

Steerability is taken over from the scores in the recipe's ``output``, where ``score_neurons.py --steer`` put it.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cards.write import write_card
from cbsae_hub.scoring import Scores, headline
from cbsae_hub.scoring.build_pack import ALT_COLUMN, build_pack
from cbsae_hub.scoring.card_pictures import write_pictures
from training.recipes import ScoresSection
from training.score_neurons import make_scorer


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `scores` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the SAE; default as in the recipe.")] = None,
    alt_column: Annotated[str, typer.Option(help="Column that says what an image shows.")] = ALT_COLUMN,
    device: Annotated[str, typer.Option(help="Where encoder and judges run.")] = "cpu",
) -> None:
    """Score the neurons of an SAE and write its pack."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = ScoresSection.read(recipe, overrides, model=model and str(model))
        settings = settings.replace(truth=settings.truth or {})
        scored = settings.output
        scorer, images = make_scorer(settings, device)
        pack = build_pack(
            scorer,
            images,
            settings.model,
            source={"id": settings.images, "split": settings.split},
            alt_column=alt_column,
            batch_size=settings.batch_size,
            steered=Scores.load(scored) if scored and (scored / "scores.json").is_file() else None,
        )
        write_pictures(settings.model)
        write_card(settings.model)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    for name, value in headline(pack.info["scores"]).items():
        logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
