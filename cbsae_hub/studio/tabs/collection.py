"""The collection below the table of all neurons: collect neurons, note what they are, share or download them."""

import base64
import json
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from cbsae_hub.hub.files import read_json
from cbsae_hub.studio.collection import MAX_NAME, MAX_TEXT, Collection, as_json, from_json, read_lines
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, PRIVATE
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.templates import template

MAX_FILE = 100_000  # bytes
_TEMPLATE = template("collection")


class CollectionBox(Tab):
    """A part of a tab; the collection itself is text in the visitor's page and address."""

    def render(self) -> None:
        gr.HTML(_TEMPLATE.heading())
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.name = gr.Textbox(label="Its name", max_length=MAX_NAME, elem_id="collection-name")
                self.text = gr.Textbox(
                    label="Neurons, one a line", lines=4, max_length=MAX_TEXT, elem_id="collection-text",
                    placeholder="17: fires on wheels\n300", info="a number, and after a colon your note",
                )  # fmt: skip
                self.file = gr.UploadButton(
                    "Open a JSON file", file_types=[".json"], type="filepath", size="sm", elem_id="collection-file"
                )
            with gr.Column(scale=7, min_width=280):
                self.listed = self.session.card(_TEMPLATE.empty(), "collection")
        self.outputs = [self.name, self.text, self.listed]
        self.parts = {"list.name": self.name, "list": self.text}
        inputs = [self.session.model, self.name, self.text]
        changes = [self.name.change, self.text.change]
        gr.on(changes, self.show, inputs, self.listed, **LOOKUP, trigger_mode="always_last")
        self.file.upload(self.open, [self.session.model, self.file], self.outputs, **PRIVATE)

    @kindly
    def show(self, key: Any, name: Any, text: Any) -> Markup:
        """Returns the collection with the neurons' names and pictures, or what is wrong with a line."""
        return listed(self.session.model_of(key), name, text)

    @kindly
    def open(self, key: Any, path: Any) -> list[Any]:
        """Opens a JSON file that was downloaded before."""
        if path is None:
            return [gr.skip()] * 3
        model = self.session.model_of(key)
        if Path(str(path)).stat().st_size > MAX_FILE:
            raise Refused(f"This file is larger than {MAX_FILE // 1000} kB: it is no collection.")
        try:
            content = read_json(Path(str(path)))
        except (OSError, ValueError) as error:
            raise Refused("This file is no JSON.") from error
        collection = from_json(content, model)
        return [collection.name, collection.text, _as_html(collection, model)]

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link."""
        return [link.collection_name, link.collection, listed(model, link.collection_name, link.collection)]


def listed(model: LoadedModel, name: Any, text: Any) -> Markup:
    """Returns a collection as HTML, from the texts in which the page has it."""
    try:
        return _as_html(read_lines(name, str(text or "")[:MAX_TEXT], model), model)
    except Refused as refusal:
        return html.PIECES.reason(str(refusal))


def _as_html(collection: Collection, model: LoadedModel) -> Markup:
    if not collection.notes:
        return _TEMPLATE.empty()
    rows = [
        (neuron, model.icon(neuron), html.neuron_title(model.pack.neurons[neuron]), note)
        for neuron, note in collection.notes.items()
    ]
    content = json.dumps(as_json(collection, model), indent=1, ensure_ascii=False)
    source = "data:application/json;base64," + base64.b64encode(content.encode()).decode()
    return _TEMPLATE.collection(collection.name, rows, source)
