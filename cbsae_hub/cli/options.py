"""Arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Folder or Hub id of an SAE or concept bottleneck SAE.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str | None, typer.Option(help="Device of the models; default a GPU, if there is one.")]

Recipe = Annotated[Path | None, typer.Option(help="YAML file of settings; `cbsae recipe` prints some.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, over the recipe; several times.")]
Output = Annotated[Path | None, typer.Option(help="Folder to write; default as in the recipe.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the output.")]
