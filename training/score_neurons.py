"""Scores the neurons of an SAE on a set of images, in one pass: names, MonoSemanticity, reconstruction, truth and more.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml

Writes neurons.parquet, labels.parquet (where the truth is known) and scores.json. An interrupted run goes on where its
last checkpoint was. docs/metrics.md says what each score is.
"""

import logging
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import Accelerator

from cbsae_hub.data.images import load_images
from cbsae_hub.scoring import NeuronScorer, headline
from recipe import read_recipe, require_keys

REQUIRED = ("model", "judge", "images", "split", "concepts")
SCORER = ("similarity", "truth", "tree", "zero_shot", "encoder", "top_k")
OPTIONAL = (*SCORER, "batch_size", "output")


def make_scorer(settings: dict[str, Any], device: Any) -> tuple[NeuronScorer, Any]:
    """The scorer that a recipe's section asks for, and its images."""
    require_keys(settings, REQUIRED, OPTIONAL)
    images = load_images(settings["images"], settings["split"], beside=settings["model"])
    given = {key: settings[key] for key in ("judge", "concepts", *SCORER) if key in settings}
    return NeuronScorer.from_pretrained(settings["model"], images, device=device, **given), images


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `scores` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of the SAE; default as in the recipe.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the results; default as in the recipe.")] = None,
) -> None:
    """Score the neurons of an SAE."""
    accelerator = Accelerator()
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    try:
        settings = read_recipe(recipe, "scores", overrides or [])
        settings |= {key: value for key, value in (("model", model), ("output", output)) if value}
        require_keys(settings, (*REQUIRED, "output"), OPTIONAL)
        scorer, images = make_scorer(settings, accelerator.device)
        folder = Path(settings["output"])
        run = {key: value for key, value in settings.items() if key != "output"}
        scorer.run(images, settings.get("batch_size", 64), accelerator, folder / "partial", run)
        scores = scorer.results()
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    accelerator.wait_for_everyone()  # nobody needs a checkpoint any more
    if accelerator.is_main_process:
        scores.save(folder, settings=run, n_images=len(images))
        shutil.rmtree(folder / "partial")
        for name, value in headline(scores.summary).items():
            logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
