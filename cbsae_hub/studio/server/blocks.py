"""Gradio's page with a gate before it, defaults for calls by plain HTTP, and JSON for assistants."""

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

import gradio as gr
from mcp.types import ImageContent, TextContent
from starlette.routing import Route

from cbsae_hub.studio.server import downloads, refusal
from cbsae_hub.studio.server.gate import MIDDLEWARE

_PICTURE = re.compile(r"data:(image/\w+);base64,(.+)")


class Page(gr.Blocks):
    """A page that is never served without its gate.

    Attributes:
        routes: What is served beside what Gradio serves.
    """

    routes: Sequence[Route] = (downloads.ROUTE,)

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """Serves the page, see :meth:`gradio.Blocks.launch`."""
        return super().launch(*arguments, app_kwargs={"middleware": [*MIDDLEWARE], "routes": [*self.routes]}, **options)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> list[Any]:
        """Returns the arguments of a handler; public endpoints may be called without those that have a default."""
        if block_fn.api_visibility == "public":
            inputs = complete(block_fn.api_name, block_fn.fn, inputs)
        return await super().preprocess_data(block_fn, inputs, *arguments, **options)

    @property
    def mcp_server_obj(self) -> Any:
        """Gradio's MCP server, which Gradio sets when the page is launched."""
        return self._mcp_server

    @mcp_server_obj.setter
    def mcp_server_obj(self, server: Any) -> None:
        if server is not None:  # Gradio's own makes Python of answers, which no assistant is bound to read
            server.postprocess_output_data = lambda outputs, root_url: contents(outputs)
        self._mcp_server = server


def complete(name: str, endpoint: Any, arguments: list[Any]) -> list[Any]:
    """Returns the arguments of an endpoint, with defaults for the last ones.

    Raises:
        gradio.Error: If there are too many, or one without a default is missing.
    """
    parameters = list(inspect.signature(endpoint).parameters.values())
    rest = [parameter.default for parameter in parameters[len(arguments) :]]
    if inspect.Parameter.empty in rest or len(arguments) > len(parameters):
        names = [p.name if p.default is p.empty else f"{p.name} = {json.dumps(p.default)}" for p in parameters]
        raise refusal.error(f"{name} takes {', '.join(names)}, in this order; it was given {len(arguments)} of them.")
    return [*arguments, *rest]


def contents(outputs: list[Any]) -> list[TextContent | ImageContent]:
    """Returns the answer to an assistant: JSON, in which pictures have names, and the pictures themselves."""
    images: list[ImageContent] = []

    def with_names(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: with_names(part) for name, part in value.items()}
        if isinstance(value, list):
            return [with_names(part) for part in value]
        if isinstance(value, str) and (match := _PICTURE.fullmatch(value)):
            images.append(ImageContent(type="image", data=match[2], mimeType=match[1]))
            return f"image {len(images)}"
        return value

    texts = [TextContent(type="text", text=json.dumps(with_names(output), ensure_ascii=False)) for output in outputs]
    return [*texts, *images]
