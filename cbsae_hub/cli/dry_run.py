"""``cbsae dry-run`` checks a recipe before it costs anything."""

from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cli.output import Data, command, printable


def _show(data: Data) -> str:
    for doubt in data["doubts"]:
        typer.echo(f"too small: {printable(doubt)}", err=True)
    for problem in data["problems"]:
        typer.echo(f"wrong: {printable(problem)}", err=True)
    return data["table"].rstrip()


@command(_show, failed=lambda data: bool(data["problems"]))
def dry_run(recipe: Annotated[Path, typer.Option(help="YAML file; all its sections are checked.")]) -> Data:
    """Check a recipe without its data: settings, ids, shapes, disk and memory of each step.

    Nothing is downloaded. The recipe's section `dry_run` describes its models and images; what is here, or in the Hub's
    cache, is read instead. Exit code 1, with a line for each problem, if something is wrong.
    """
    from cbsae_hub.pipeline.dry_run import DryRun

    run = DryRun(recipe)
    run.run()
    facts = {"steps": run.records(), "doubts": run.doubts, "problems": run.problems}
    return {"recipe": recipe, **facts, "table": run.table()}
