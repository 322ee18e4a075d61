"""The commands of ``cbsae``."""

import typer

from cbsae_hub.cli.bottleneck import bottleneck
from cbsae_hub.cli.convert import convert
from cbsae_hub.cli.doctor import doctor
from cbsae_hub.cli.dry_run import dry_run
from cbsae_hub.cli.evaluate import evaluate
from cbsae_hub.cli.explain import explain
from cbsae_hub.cli.extract import extract
from cbsae_hub.cli.find import find
from cbsae_hub.cli.info import info
from cbsae_hub.cli.inspect_image import inspect
from cbsae_hub.cli.pack import pack
from cbsae_hub.cli.publish import publish
from cbsae_hub.cli.recipe import recipe
from cbsae_hub.cli.score import score
from cbsae_hub.cli.serve import serve
from cbsae_hub.cli.steer import steer
from cbsae_hub.cli.suppress import suppress
from cbsae_hub.cli.train import train
from cbsae_hub.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_LOOK = (info, find, inspect, steer, serve)
_STEPS = (recipe, dry_run, extract, train, score, pack, bottleneck, evaluate, suppress)
_PANELS = {"All in one": (explain,), "Look into a model": _LOOK, "Make one": _STEPS, "More": (convert, publish, doctor)}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


def _say_version(version: bool) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_say_version, is_eager=True, help="Say which version."),
) -> None:
    """Look into vision models with sparse autoencoders: names of neurons, steering, training, publishing.

    Exit codes: 0 fine, 1 what was asked for failed or is not there, 2 arguments that cannot be, 130 stopped by Ctrl-C.
    """
