"""What all tabs of the page share: the models, a visitor's state, and how handlers are bound and fail."""

import inspect
import io
import json
import secrets
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from cbsae_hub.encoders.site import EditError
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.basket import UNITS, BadBasket, Basket, dock
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.serving import Forgotten, Serving
from cbsae_hub.studio.view.pictures import WHITE, ImageRefused, data_uri
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
RUNNING = ("neuron", "llava", "draw")  # tabs that run models when something changes
KINDLY = (Forgotten, ImageRefused, BadBasket, Unavailable, EditError)


def refusal(message: str) -> gr.Error:
    """A message for who called a handler, without a line in the log."""
    return gr.Error(message, title="That did not work", duration=10, print_exception=False)


def in_toast(message: Any) -> str:
    """Plain text for gr.Error, gr.Warning and gr.Info, which show HTML."""
    return escape(str(message), quote=False)


def warn(message: str, title: str) -> None:
    """Tells the page's user something that they can go on with."""
    gr.Warning(in_toast(message), title=in_toast(title))


def kindly(handler: Callable[..., Any], told: Callable[[Any], str] = in_toast) -> Callable[..., Any]:
    """A handler whose own errors reach the visitor as sentences; one that nobody waits for any more says nothing.

    Args:
        handler: What may raise them.
        told: Makes text of an error.
    """
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def generate(*arguments: Any, **named: Any) -> Any:
            try:
                yield from handler(*arguments, **named)
            except Stopped:
                return
            except KINDLY as error:
                raise refusal(told(error)) from error

        return generate

    @wraps(handler)
    def handle(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except Stopped:
            return gr.skip()
        except KINDLY as error:
            raise refusal(told(error)) from error

    return handle


class Visit:
    """A visitor's state, as components of the page that is being built; pictures and models stay on the server.

    It is text in the visitor's browser, which sends it along: the server forgets nobody, whoever else calls, and
    after a restart goes on where it was. Handlers check it like all that comes from outside.

    Attributes:
        served: Key of the model that is looked at.
        basket: The steering basket, see :func:`cbsae_hub.studio.links.basket_of`.
        unit: In which its strengths are shown.
        aside: Baskets of other models, which wait until these are chosen again.
        picture: Name of the picture that is steered.
        kept: A picture that the visitor has brought, which their browser keeps: see :func:`keepsake`.
        tab: Id of the tab that is open.
        pulse: Set to something new by whatever changes what the open tab shows of a model: see :func:`beat`.
        dock: The basket as it is shown.
    """

    def __init__(self, serving: Serving):
        self.serving = serving
        self.served = state(serving.first.key, "served")
        self.basket = state("", "basket")
        self.unit = state(UNITS[0], "unit")
        self.aside = state("", "aside")
        self.picture = state(WHITE, "picture")
        self.kept = state("", "kept")
        self.tab = state("start", "tab")
        self.pulse = state("", "pulse")
        self.dock = gr.HTML(
            dock(serving.first, Basket()), js_on_load=script("dock"), elem_id="dock", render=False, padding=False
        )

    @property
    def parts(self) -> dict[str, gr.Textbox]:
        """What the address says of all tabs."""
        return {
            "m": self.served, "tab": self.tab, "b": self.basket, "unit": self.unit, "aside": self.aside,
            "pic": self.picture,
        }  # fmt: skip

    def loaded(self, served: Any) -> Loaded:
        """The model of a visitor's state; the first for somebody who says none.

        Raises:
            Forgotten: If the page does not have it, or no longer.
        """
        return self.serving.first if served in ("", None) else self.serving.of(served)

    def card(self, value: str, elem_id: str, **options: Any) -> gr.HTML:
        """A piece of HTML whose buttons act on the whole page."""
        return gr.HTML(value, elem_id=elem_id, js_on_load=script("acts"), **options)


def state(value: str, name: str) -> gr.Textbox:
    """A part of the visitor's state: text that is not seen."""
    return gr.Textbox(value, visible="hidden", elem_id=f"state-{name}", container=False)


def unremembered(choice: gr.Radio) -> gr.Radio:
    """Choices that Gradio does not check against those that it has sent, which it forgets: handlers check them."""
    choice.preprocess = lambda value: value
    return choice


def keepsake(name: str, picture: Image.Image) -> str:
    """An upload for the visitor's own browser, which brings it back when the server has forgotten it."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, method=0)
    return json.dumps({"name": name, "data": data_uri(buffer.getvalue())})


def beat(tab: Any) -> Any:
    """A new value for ``visit.pulse``, if the open tab is one that runs models."""
    return secrets.token_hex(4) if tab in RUNNING else gr.skip()


def row_of(loaded: Loaded, neuron: Any) -> Any:
    """A neuron's row in the table.

    Raises:
        BadBasket: If there is no such neuron.
    """
    number = int(neuron) if str(neuron).isdecimal() else -1
    if not 0 <= number < len(loaded.pack.neurons):
        raise BadBasket(f"There is no neuron {str(neuron)[:20]}: this model has {len(loaded.pack.neurons)}.")
    return loaded.pack.neurons[number]
