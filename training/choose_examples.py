"""Chooses the page's worked examples: runs experiments as the page does, and keeps those that hold.

    python training/choose_examples.py hub/emoji-cbsae --llava hub/emoji-llava --unclip hub/emoji-unclip

Writes worked_examples.json beside the model. The tab Start shows what is in it, as long as the model and the generators
are those that were asked. Takes minutes: concepts are trained, and drawings made, until one does what a card says.
"""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.hub.files import write_text
from cbsae_hub.models.base import WORKED_NAME
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.worked_examples import ExampleChooser


def main(
    model: Annotated[Path, typer.Argument(help="Folder of an SAE with a pack.")],
    llava: Annotated[str | None, typer.Option(help="Folder or Hub id of a LLaVA.")] = None,
    unclip: Annotated[str | None, typer.Option(help="Folder or Hub id of a Stable unCLIP pipeline.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write; default beside the model.")] = None,
) -> None:
    """Choose the worked examples of a model's page."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        serving = Serving([model], llava, unclip)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    examples = ExampleChooser(serving, serving.first).choose()
    write_text(output or model / WORKED_NAME, json.dumps(examples, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
