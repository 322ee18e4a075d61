"""``cbsae publish`` uploads a folder to the Hub."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cbsae_hub.cli.output import Data, command, facts, table
from cbsae_hub.words import number


def _show(data: Data) -> str:
    files = table({"file": list(data["files"]), "bytes": [number(size) for size in data["files"].values()]})
    if data["url"] is None:
        outcome = "nothing was sent (--dry-run)"
    else:
        outcome = data["url"] if data["changed"] else f"{data['url']} (nothing had changed)"
    size = f"{number(data['size'])} bytes"
    summary = facts([(data["repo_type"], data["repo_id"]), ("size", size), ("published", outcome)])
    return f"{files}\n{summary}"


@command(_show)
def publish(
    folder: Annotated[Path, typer.Argument(help="Folder of a model, data set or Space.")],
    repo_id: Annotated[str | None, typer.Argument(help="OWNER/NAME; default you and the folder's name.")] = None,
    repo_type: Annotated[
        Literal["model", "dataset", "space"] | None, typer.Option(help="Default what the folder looks like.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a README.md that was edited by hand on the Hub.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> Data:
    """Publish a folder on the Hub in one commit: weights, pack and card together.

    Log in first with `hf auth login`, or set HF_TOKEN.
    """
    from cbsae_hub import publishing

    upload = publishing.plan(folder, repo_id, repo_type=repo_type)
    data = {name: getattr(upload, name) for name in ("folder", "repo_id", "repo_type", "size", "files")}
    if dry_run:
        return {**data, "url": None, "commit": None, "changed": None}
    publication = publishing.publish(
        upload, private=private or None, create_pr=create_pr, overwrite_card=overwrite_card, message=message
    )
    return {**data, "url": publication.url, "commit": publication.commit, "changed": publication.changed}
