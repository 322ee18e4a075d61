"""``cbsae train`` trains a sparse autoencoder."""

from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cli.options import Output, Overrides, Recipe, Resume
from cbsae_hub.cli.output import Data, command
from cbsae_hub.cli.processes import speaks


def _show(data: Data) -> str:
    return (
        f"{data['folder']}: explained variance {data['explained_variance']:.4f}, L0 {data['l0']:.2f}, "
        f"silent neurons {data['silent_share']:.2%} of {data['tokens']} held-out tokens"
    )


@command(_show)
def train(
    recipe: Recipe = None,
    overrides: Overrides = None,
    activations: Annotated[Path | None, typer.Option(help="Activation store; default as in the recipe.")] = None,
    output: Output = None,
    resume: Resume = False,
) -> Data | None:
    """Train a sparse autoencoder on stored activations: section `sae` of a recipe.

    Writes the SAE, training.json, log.jsonl and a checkpoint. Ctrl-C saves, --resume continues. On several processes:
    accelerate launch -m cbsae_hub.cli train ...
    """
    from cbsae_hub.pipeline.sections import SAESection

    settings = SAESection.read(recipe, overrides, activations=activations, output=output)

    from cbsae_hub.pipeline import train as pipeline

    main = speaks()
    final = pipeline.train(settings, resume=resume)
    return {"folder": settings.output, **final._asdict()} if main else None
