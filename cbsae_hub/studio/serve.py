"""Serves the page: what ``cbsae serve`` and ``app.py`` do."""

import errno
import socket
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from cbsae_hub.studio.page import LAUNCH, build


def serve(
    models: Sequence[str | Path], llava: str | None = None, unclip: str | None = None, *, host: str, port: int
) -> gr.Blocks:
    """Serves the page in the background.

    Args:
        models: See :func:`build`, as ``llava`` and ``unclip``.
        llava: The LLaVA to steer.
        unclip: The Stable unCLIP to steer.
        host: Address to listen on.
        port: Port to listen on.

    Returns:
        The page; ``local_url`` is its address, ``block_thread`` waits for Ctrl-C.

    Raises:
        OSError: If the port is in use, or nothing can listen there; or see :func:`build`.
        ValueError: See :func:`build`.
    """
    require_free(host, port)  # at once: models take their time
    page = build(models, llava, unclip)
    page.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH)
    return page


def require_free(host: str, port: int) -> None:
    """Raises an OSError that says what to do if nothing can listen on a port."""
    try:
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise OSError(
                f"port {port} is in use, perhaps by a page that still runs: end that one, or take another port, "
                f"--port {port + 1}"
            ) from error
        raise OSError(
            f"nothing can listen on {host}, port {port}: {error}; choose others, --host and --port"
        ) from error
