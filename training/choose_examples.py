"""Chooses the page's worked examples: runs experiments as the page does, and keeps those that hold.

    python training/choose_examples.py hub/emoji-cbsae --llava hub/emoji-llava --unclip hub/emoji-unclip
        --recipe training/recipes/emoji.yaml

Writes worked_examples.json beside the model. The tab Start shows what is in it, as long as the model and the generators
are those that were asked. Takes minutes: concepts are trained, and drawings made, until one does what a card says.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from cbsae_hub.hub.files import plain, write_text
from cbsae_hub.models.base import WORKED_NAME
from cbsae_hub.pipeline.sections import SuppressionSection
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.worked_examples import ExampleChooser


def main(
    model: Annotated[Path, typer.Argument(help="Folder of an SAE with a pack.")],
    llava: Annotated[str | None, typer.Option(help="Folder or Hub id of a LLaVA.")] = None,
    unclip: Annotated[str | None, typer.Option(help="Folder or Hub id of a Stable unCLIP pipeline.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file whose section `suppression` names labelled pictures.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write; default beside the model.")] = None,
) -> None:
    """Choose the worked examples of a model's page."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        serving = Serving([model], llava, unclip)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    examples = ExampleChooser(serving, serving.first).choose(None if recipe is None else groups_of(recipe))
    write_text(output or model / WORKED_NAME, json.dumps(examples, indent=1, ensure_ascii=False) + "\n")


def groups_of(recipe: Path) -> dict[str, Any]:
    """Returns the labelled pictures of a recipe, as the page's tab Suppress reads them.

    Neurons are looked for on its validation split, in which groups are of about one size.
    """
    section = SuppressionSection.read(recipe)
    columns = {"attribute": vars(section.attribute), "target": vars(section.target), "prompts": section.prompts or {}}
    return plain({"images": str(section.images), "find": section.val, "test": section.test, **columns})


if __name__ == "__main__":
    typer.run(main)
