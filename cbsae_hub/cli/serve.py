"""``cbsae serve`` serves the page."""

from contextlib import suppress
from threading import Event
from typing import Annotated

import typer

from cbsae_hub.cli.output import Data, command


def _show(data: Data) -> str:
    return f"The page is at {data['url']}; Ctrl-C ends it."


def wait(data: Data) -> None:
    """Waits for Ctrl-C, if a page is served."""
    if "url" not in data:
        return
    with suppress(KeyboardInterrupt):
        Event().wait()


@command(_show, then=wait)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folders or Hub ids of models with a pack, or what `cbsae explain` made; the first is shown.",
        ),
    ],
    llava: Annotated[str | None, typer.Option(help="Folder or Hub id of the LLaVA to steer.")] = None,
    unclip: Annotated[str | None, typer.Option(help="Folder or Hub id of the Stable unCLIP to steer.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> Data:
    """Serve the page of one or more models: look their neurons up, inspect pictures, steer.

    A model without a pack gets one by `cbsae pack`.
    """
    from cbsae_hub.studio.serve import serve as start

    page = start(models, llava, unclip, host=host, port=port)
    return {"url": page.local_url, "models": models, "llava": llava, "unclip": unclip}
