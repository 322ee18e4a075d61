"""Publishes what is shipped, or assembles the page as a Space of any models.

    python training/publish.py --all --dry-run                        # what would go where; asks nobody
    python training/publish.py --all --namespace OWNER [--private]    # models, images and page, in one collection
    python training/publish.py --space FOLDER [--model FOLDER_OR_HUB_ID ...] [--llava ID] [--unclip ID]

The first two take every folder of hub/. Started again after a failure, the second goes on: what is there and unchanged
is left alone. The third sends nothing; its last line says how to push the folder. See docs/publishing.md.
"""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from cbsae_hub.publishing import PublishError, Upload, plan, plan_together, publish_together
from training.space_folder import HUB, ROOT, make_space

SOMEBODY = "OWNER"  # the owner in a dry run that names nobody
SPACE = "what-a-vision-model-knows"
COLLECTION = "Concept bottleneck SAEs of a small world"
CARDS = ROOT / "model_cards"  # the parts of cards that are written by hand


def main(
    everything: Annotated[bool, typer.Option("--all", help="Publish what is shipped.")] = False,
    namespace: Annotated[str | None, typer.Option(help="With --all: user or organisation to publish as.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --all: only say what would go where.")] = False,
    private: Annotated[bool, typer.Option("--private", help="With --all: for nobody else to see.")] = False,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="With --all: replace cards that were edited on the Hub, too.")
    ] = False,
    space: Annotated[Path | None, typer.Option(help="Folder to assemble a Space in.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="With --space: folder or Hub id of an SAE or CB-SAE; default what is shipped."),
    ] = None,
    llava: Annotated[str | None, typer.Option(help="With --space: folder or Hub id of the LLaVA to steer.")] = None,
    unclip: Annotated[str | None, typer.Option(help="With --space: likewise the Stable unCLIP.")] = None,
) -> None:
    """Publish everything, or assemble a Space."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if everything == (space is not None):
        raise typer.BadParameter("give either --all or --space")
    try:
        if everything:
            if not (namespace or dry_run):
                raise ValueError("--all needs --namespace, the user or organisation to publish as")
            _publish_all(namespace or SOMEBODY, dry_run, private, overwrite_card)
        else:
            _make_space(space, model, llava, unclip)
    except PublishError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error


def _publish_all(namespace: str, dry_run: bool, private: bool, overwrite_card: bool) -> None:
    with TemporaryDirectory() as temporary:
        page = Path(temporary) / "space"
        folders = sorted(folder for folder in (ROOT / HUB).iterdir() if folder.is_dir())
        uploads = plan_together(folders, namespace, cards=CARDS)
        make_space(page)
        uploads.append(plan(page, f"{namespace}/{SPACE}", repo_type="space"))
        typer.echo(table(uploads))
        if dry_run:
            return
        for upload, published in publish_together(
            uploads, collection=COLLECTION, private=private or None, overwrite_card=overwrite_card
        ):
            typer.echo(f"{upload.repo_id}: {published.url if published.changed else 'unchanged'}")


def _make_space(space: Path, model: list[str] | None, llava: str | None, unclip: str | None) -> None:
    contents, variables = make_space(space, model, llava, unclip)
    for name in contents.folders:
        typer.echo(f"{HUB}/{name}: {size(space / HUB / name)}")
    typer.echo(f"{space}: {size(space)}")
    typer.echo(f'hf upload OWNER/NAME {shlex.quote(str(space))} . --repo-type space --delete "*"')
    if variables:
        settings = " ".join(f"-e {name}={value}" for name, value in variables.items())
        typer.echo(f"hf spaces variables add OWNER/NAME {settings}")


def table(uploads: Sequence[Upload]) -> str:
    """Table of uploads, one line each, and their sum."""
    rows = [
        (upload.repo_id, upload.repo_type, f"{len(upload.files)}", f"{upload.size:,}", ", ".join(_renamed(upload)))
        for upload in uploads
    ]
    files, size = sum(len(upload.files) for upload in uploads), sum(upload.size for upload in uploads)
    rows = [("repository", "type", "files", "bytes", "references"), *rows, ("all", "", f"{files}", f"{size:,}", "")]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    )


def _renamed(upload: Upload) -> list[str]:
    return [f"{name} -> {published}" for name, published in upload.references.items()]


def size(folder: Path) -> str:
    """Number of files of a folder, and their bytes."""
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(files)} files, {sum(files):,} bytes"


if __name__ == "__main__":
    typer.run(main)
