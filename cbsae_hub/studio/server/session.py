"""A visitor's session: the state that all tabs share, in the visitor's browser, and the queues of the handlers."""

import json
import secrets
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

from cbsae_hub.neurons.pack import Pack
from cbsae_hub.studio.basket import UNITS, Basket, dock, index_of
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.view.images import WHITE, as_webp, data_uri, read_image
from cbsae_hub.studio.view.style import script

# Hidden from the API, which does not close them: every handler checks what it gets.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# Answers from the pack do not wait for models. Without Gradio's queue they would be quicker, but errors would be mute.
LOOKUP: dict[str, Any] = {**PRIVATE, "concurrency_id": "lookups", "concurrency_limit": 8}
# Models run one at a time: on few cores, or one GPU, two at once are both slower.
WORK: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "minimal",  # seconds, and the place in the queue
    "concurrency_id": "models",
    "concurrency_limit": 1,
}
# Training takes its half minute beside what others look at, one visitor after the other, whoever they are.
TRAIN: dict[str, Any] = {**PRIVATE, "concurrency_id": "trainings", "concurrency_limit": 1}
RUNNING = ("neuron", "llava", "draw", "clip", "suppress")  # tabs that run models when something changes


class SessionState:
    """A visitor's state, as components of the page that is being built; images and models stay on the server.

    It is text in the visitor's browser, which sends it along: the server forgets nobody, whoever else calls, and
    after a restart goes on where it was. Handlers check it like all that comes from outside.

    Attributes:
        model: Key of the model that is looked at.
        basket: The steering basket, see :func:`cbsae_hub.studio.links.basket_of`.
        unit: Unit in which the basket's strengths are shown.
        aside: Baskets of other models, which wait until these are chosen again.
        image: Name of the image that is steered.
        upload: An image that the visitor has brought, which their browser keeps: see :func:`upload_record`.
        tab: Id of the tab that is open.
        pulse: New text whenever something changes what the open tab shows of a model: see :func:`pulse`.
        dock: The basket as it is shown.
    """

    def __init__(self, serving: Serving):
        self.serving = serving
        self.model = state(serving.first.key, "served")
        self.basket = state("", "basket")
        self.unit = state(UNITS[0], "unit")
        self.aside = state("", "aside")
        self.image = state(WHITE, "picture")
        self.upload = state("", "kept")
        self.tab = state("start", "tab")
        self.pulse = state("", "pulse")
        self.dock = gr.HTML(
            dock(serving.first, Basket()), js_on_load=script("acts") + script("dock"), elem_id="dock", render=False,
            padding=False,
        )  # fmt: skip

    @property
    def parts(self) -> dict[str, gr.Textbox]:
        """The components that the address describes, by the address's keys."""
        return {
            "m": self.model, "tab": self.tab, "b": self.basket, "unit": self.unit, "aside": self.aside,
            "pic": self.image,
        }  # fmt: skip

    def model_of(self, key: Any) -> LoadedModel:
        """Returns the model of a key, the first for None or ""; raises Refused if the page does not have it."""
        return self.serving.first if key in ("", None) else self.serving.of(key)

    def stop_job(self, request: gr.Request) -> None:
        """Ends the visitor's training, answer or drawing, if there is one."""
        self.serving.jobs.stop(request.session_hash)

    def keep_upload(self, path: Any, pack: Pack) -> tuple[str, str]:
        """Keeps an uploaded picture; returns its name and its :func:`upload_record`, or raises Refused."""
        images = self.serving.images
        name = images.keep(read_image(str(path)))
        return name, upload_record(name, images.get(name, pack))

    def card(self, value: str, elem_id: str, **options: Any) -> gr.HTML:
        """Returns a piece of HTML whose buttons act on the whole page."""
        return gr.HTML(value, elem_id=elem_id, js_on_load=script("acts"), **options)


def state(value: str, name: str) -> gr.Textbox:
    """Returns a part of the visitor's state: text that is not seen."""
    return gr.Textbox(value, visible="hidden", elem_id=f"state-{name}", container=False)


Choice = TypeVar("Choice", gr.Radio, gr.CheckboxGroup)


def unremembered(choice: Choice) -> Choice:
    """Switches off Gradio's check against the choices that it has sent, which it forgets: handlers check instead."""
    choice.preprocess = lambda payload: payload  # type: ignore[method-assign]
    return choice


def upload_record(name: str, image: Image.Image) -> str:
    """Returns an upload for the visitor's own browser, which sends it again if the server has forgotten it."""
    return json.dumps({"name": name, "data": data_uri(as_webp(image, lossless=True, method=0))})


def pulse(tab: Any) -> Any:
    """Returns a new value for ``session.pulse``, if the open tab is one that runs models."""
    return secrets.token_hex(4) if tab in RUNNING else gr.skip()


def row_of(model: LoadedModel, neuron: Any) -> Any:
    """Returns a neuron's row in the table, or raises Refused if there is no such neuron."""
    number = index_of(neuron)
    if not 0 <= number < len(model.pack.neurons):
        raise Refused(f"There is no neuron {str(neuron)[:20]}: this model has {len(model.pack.neurons)}.")
    return model.pack.neurons[number]
