"""A neuron as a file that other pages and programs embed: ``/neuron/17.json``, ``/neuron/17.png``, ``/neuron/17.webp``.

All three are read from the pack, are the same for everybody, and may be shown by any other page.
"""

import io
import json
from collections.abc import Callable
from threading import Lock
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cbsae_hub.hub.files import plain, sha256
from cbsae_hub.neurons.pack import ICON_KINDS
from cbsae_hub.plots import plot_examples
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.basket import concept_of
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import row_of
from cbsae_hub.studio.view.html import neuron_title

PICTURES = 8  # of a card
MAX_CARDS = 128  # that are remembered: 100 kB each
# Nothing here is anybody's own, so that any page may read it; a pack that is built anew is seen within the hour.
OPEN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
CACHED = {"Cache-Control": "public, max-age=3600"}


class NeuronFiles:
    """Answers requests for files of neurons of the allow-list's models; ``m`` names one, as in links of the page."""

    def __init__(self, serving: Serving):
        self.serving, self.api = serving, Api(serving)
        self._cards: Results[bytes] = Results(MAX_CARDS)
        self._drawing = Lock()  # matplotlib draws one figure at a time

    @property
    def routes(self) -> list[Route]:
        """The routes, for the page's server."""
        kinds: dict[str, Callable[[LoadedModel, int, Request], Response]] = {
            "json": self.facts, "png": self.card, "webp": self.icon,
        }  # fmt: skip
        return [Route(f"/neuron/{{neuron:int}}.{kind}", self._answer(make)) for kind, make in kinds.items()]

    def _answer(self, make: Callable[[LoadedModel, int, Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                model = self._model(request.query_params.get("m", ""))
                neuron = row_of(model, request.path_params["neuron"]).neuron
                tag = f'"{sha256(json.dumps(model.pack.info["files"]), str(request.url))[:16]}"'
                if request.headers.get("if-none-match") == tag:
                    return Response(status_code=304, headers={**OPEN, **CACHED, "ETag": tag})
                response = make(model, neuron, request)
            except Refused as refusal:
                return JSONResponse({"detail": str(refusal)}, 404, headers=OPEN)
            response.headers.update({**OPEN, **CACHED, "ETag": tag})
            return response

        return answer

    def _model(self, name: str) -> LoadedModel:
        """Returns a model that everybody may see: visitors' own ones have no files."""
        if name and name not in self.serving.models:
            raise Refused("This page does not have that model.")
        return self.serving.of(name) if name else self.serving.first

    def facts(self, model: LoadedModel, neuron: int, request: Request) -> Response:
        """Returns what is known of a neuron, see :meth:`Api.neuron_info`, and addresses relative to this one."""
        name = quote(model.name, safe="")
        icons = {kind: f"{neuron}.webp?m={name}&of={kind}" for kind in ICON_KINDS if model.pack.has_icon(neuron, kind)}
        facts = {
            "model": model.name,
            "title": neuron_title(model.pack.neurons[neuron]),
            **self.api.neuron_info(neuron, model.name),
            "page": f"../?m={name}&tab=neuron&neuron={neuron}",
            "card": f"{neuron}.png?m={name}" if icons else None,
            "icons": icons,
        }
        return JSONResponse(plain(facts))

    def card(self, model: LoadedModel, neuron: int, request: Request) -> Response:
        """Returns a neuron's name and its strongest pictures, each above its map, as the model's card shows them."""
        examples = model.pack.examples(neuron, "top", PICTURES)
        if not examples:
            raise Refused(f"Neuron {neuron} has no pictures.")
        row = model.pack.neurons[neuron]

        def draw() -> bytes:
            buffer = io.BytesIO()
            title = f"{concept_of(model, neuron) or 'unnamed'}\n{row.score:.2f}\n#{neuron}"
            with self._drawing:
                plot_examples([examples], [title]).savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

        return Response(self._cards.of((model.name, neuron), draw), media_type="image/png")

    def icon(self, model: LoadedModel, neuron: int, request: Request) -> Response:
        """Returns one of a neuron's icons; ``of`` says which, see :meth:`Pack.icon`."""
        kind: Any = request.query_params.get("of", ICON_KINDS[0])
        icon = model.pack.icon(neuron, kind) if kind in ICON_KINDS else None
        if icon is None:
            raise Refused(f"Neuron {neuron} has no such icon.")
        return Response(icon, media_type="image/webp")
