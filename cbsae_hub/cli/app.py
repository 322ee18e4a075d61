"""The commands of ``cbsae``."""

import typer

from cbsae_hub.cli.convert import convert
from cbsae_hub.cli.doctor import doctor
from cbsae_hub.cli.explain import explain
from cbsae_hub.cli.find import find
from cbsae_hub.cli.info import info
from cbsae_hub.cli.inspect_image import inspect
from cbsae_hub.cli.pack import pack
from cbsae_hub.cli.publish import publish
from cbsae_hub.cli.steer import steer
from cbsae_hub.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for _command in (explain, info, find, inspect, steer, convert, pack, publish, doctor):
    app.command()(_command)


def _say_version(version: bool) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_say_version, is_eager=True, help="Say which version."),
) -> None:
    """Look into vision models with sparse autoencoders: names of neurons, steering, conversion, publishing.

    Exit codes: 0 fine, 1 what was asked for failed or is not there, 2 arguments that cannot be.
    """
