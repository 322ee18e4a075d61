"""The gate before Gradio: open routes, files that a request may name, and the headers of every answer."""

import json
import logging
import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cbsae_hub.studio.view.images import MAX_BYTES

logger = logging.getLogger(__name__)

MAX_BODY = 2 * MAX_BYTES  # a picture as base64 is a third larger than its file, and settings are small
# What the page, gradio_client, curl and MCP need. Gradio has more: some fetch addresses, start programs, keep state of
# visitors on the disk or tell how busy the page is. What a later version adds is closed until it is listed here.
_OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon)/?|/(assets|static|svelte|download)/.+"
    r"|/neuron/[0-9]{1,7}\.(json|png|webp)"
    r"|/gradio_api/(info|openapi\.json|startup-events|app_id|theme\.css|upload|upload_progress|cancel|reset)/?"
    r"|/gradio_api/(queue|call|run|heartbeat)/.+|/gradio_api/mcp(/.*)?"
)
_FILE = re.compile(r"/gradio_api/file=(.+)", re.DOTALL)
_UPLOAD = "/gradio_api/upload"  # the only body that is no JSON; Gradio limits its size
# Gradio's page needs inline scripts, and makes functions of texts. Who may put the page into a frame is not said: the
# Hub does, and so may others.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    "Content-Security-Policy": _POLICY,
}


class Gate:
    """Lets through what the page is for. Gradio reads the very JSON that was checked here.

    Gradio downloads any file whose address is in an argument, before a handler can look at it.

    Args:
        app: The app behind the gate.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            scope, receive = await _checked(scope, receive)
        except HTTPException as refusal:
            logger.info("refused %s %s: %s", scope["method"], scope["path"][:200], refusal.detail)
            response = JSONResponse({"detail": refusal.detail}, refusal.status_code)
            await response(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


async def _checked(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Returns the request as Gradio may have it.

    Raises:
        HTTPException: If it may not.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    own_files = scope["app"].get_blocks().temp_file_sets  # uploaded to this server, or shown by it
    if file := _FILE.fullmatch(path):
        if not _is_own(file[1], own_files):
            raise HTTPException(403, "This is no file of this page.")
        return scope, receive
    if not _OPEN.fullmatch(path):
        raise HTTPException(404, "There is nothing here.")
    if scope["method"] in ("GET", "HEAD", "OPTIONS") or path.rstrip("/") == _UPLOAD:
        return scope, receive
    body = await _read(receive)
    if body:
        body = _without_foreign_files(body, own_files)
    headers = [header for header in scope["headers"] if header[0] not in (b"content-length", b"transfer-encoding")]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, _replay(body, receive)


async def _read(receive: Receive) -> bytes:
    """Reads a whole body, if it is of a size that anybody needs."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise HTTPException(413, f"This request is larger than {MAX_BODY // 1_000_000} MB.")
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a function that gives a body that was read already, and then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _without_foreign_files(body: bytes, own_files: list[set[str]]) -> bytes:
    """Returns JSON without addresses beside the paths of files; all paths must be of files of this server."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if entries.keys() & {"path", "url"}:
            if not all(_is_own(value, own_files) for name, value in pairs if name == "path") or "path" not in entries:
                raise HTTPException(403, "A file has to be uploaded to this page first; addresses are never fetched.")
            entries.pop("url", None)  # Gradio makes it again of the path
        return entries

    try:
        return json.dumps(json.loads(body, object_pairs_hook=checked), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also halves of letters, which no model can read
        raise HTTPException(400, "This is not JSON, or its texts are none.") from error


def _is_own(path: Any, own_files: list[set[str]]) -> bool:
    return isinstance(path, str) and any(path in files for files in own_files)


# The HTML of the page has no name with an ending, by which Gradio decides what it compresses.
MIDDLEWARE = (Middleware(GZipMiddleware, minimum_size=1000, compresslevel=6), Middleware(Gate))
