"""Trains a sparse autoencoder on stored activations.

    python training/extract_activations.py --recipe training/recipes/emoji.yaml
    accelerate launch training/train_sae.py --recipe training/recipes/emoji.yaml --set steps=2000

Writes the SAE, training.json, log.jsonl and a checkpoint into the output folder. Ctrl-C saves; --resume continues.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.trainers.loop import Interrupted
from cbsae_hub.trainers.sae.trainer import SAETrainer
from training.recipes import SAESection


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `sae` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    activations: Annotated[Path | None, typer.Option(help="Activation store; default as in the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default as in the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the output.")] = False,
) -> None:
    """Train a sparse autoencoder on stored activations."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = SAESection.read(recipe, overrides, activations=activations, output=output)
        config, store = settings.config(), ActivationStore.open(settings.activations)
        train, heldout = store.holdout(config.heldout_fraction, config.seed)
        trainer = SAETrainer(config, train, heldout, settings.output)
        final = trainer.train(resume=resume)
        trainer.accelerator.end_training()
    except (ValueError, OSError, FloatingPointError) as error:
        raise typer.BadParameter(str(error)) from error
    except Interrupted as stop:
        logging.warning("%s", stop)
        raise typer.Exit(stop.exit_code) from stop
    if not trainer.accelerator.is_main_process:
        return
    figures = final.explained_variance, final.l0, 100 * final.silent_share, final.tokens
    form = "%s: explained variance %.4f, L0 %.2f, silent neurons %.2f %% of %d held-out tokens"
    logging.info(form, settings.output, *figures)


if __name__ == "__main__":
    typer.run(main)
