"""Arguments that several commands have."""

from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="Folder or Hub id of an SAE or concept bottleneck SAE.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Device = Annotated[str | None, typer.Option(help="Device of the models; default a GPU, if there is one.")]
