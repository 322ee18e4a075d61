"""The parts that all steering tabs have: the image, how neurons are edited, and the experiment that these make."""

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from cbsae_hub.studio.basket import watched_word
from cbsae_hub.studio.links import HOW, MAX_WORD, WHERE, Link, as_text, basket_of
from cbsae_hub.studio.server.experiments import Experiment
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.tabs.unavailable import ReadingTab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.image_box import ImageBox
from cbsae_hub.studio.view.images import WHITE


def versions(reader: str) -> dict[str, tuple[str, str]]:
    """Returns title and explanation of each version of an experiment, see ``with_controls``; ``reader`` is steered."""
    return {
        "original": ("Original", f"{reader} as it is"),
        "sae": ("SAE at strength 0", "the picture through the SAE, nothing edited: what the SAE alone changes"),
        "steered": ("Steered", "with the neurons of the basket"),
        "random": ("Random control", "pushed exactly as far, in a random direction"),
    }


class SteeringTab(ReadingTab):
    """A tab whose experiment is set up by components; each has a key in the address.

    Attributes:
        prefix: Prefix of the settings' keys in the address.
        edit_settings: The components that say how neurons are edited, by their keys in the address.
        settings: All components that an experiment depends on: the inputs of its handlers.
    """

    prefix = ""
    edit_settings: dict[str, Component]
    settings: dict[str, Component]

    def __init__(self, session: SessionState):
        super().__init__(session)
        self.image = ImageBox(session, self.name)

    def render_edit_settings(self) -> None:
        """Adds :attr:`edit_settings` to the page that is being built."""
        self.where = gr.Radio(list(WHERE), value=next(iter(WHERE)), label="Where", elem_id=f"{self.name}-where")
        with gr.Accordion("More settings", open=False):
            self.how = gr.Radio(list(HOW), value=next(iter(HOW)), label="How", elem_id=f"{self.name}-how")
            self.word = gr.Textbox(
                label="Word to watch", placeholder="the strongest neuron's name", max_length=MAX_WORD,
                elem_id=f"{self.name}-word",
            )  # fmt: skip
            self.keep_error = gr.Checkbox(
                False, label="Put back what the SAE loses of the picture", elem_id=f"{self.name}-keep"
            )
        components = {"alone": self.where, "op": self.how, "keep": self.keep_error, "word": self.word}
        self.edit_settings = {f"{self.prefix}{key}": component for key, component in components.items()}
        self.settings = {"m": self.session.model, "b": self.session.basket, "pic": self.session.image}

    def edit_values_of(self, link: Link) -> list[Any]:
        """Returns values of :attr:`edit_settings` for a link: the tab's own where it has them, else LLaVA's."""
        names = ("alone", "op", "keep_error", "word")
        own = [getattr(link, f"{self.name}_{name}") if self.prefix else None for name in names]
        return self.edit_values(*(getattr(link, name) if one is None else one for name, one in zip(names, own)))

    @staticmethod
    def edit_values(alone: bool, op: str, keep_error: bool, word: str) -> list[Any]:
        """Returns values of :attr:`edit_settings` for those of a link."""
        where = next(name for name, code in WHERE.items() if code == str(int(alone)))
        return [where, next(name for name, code in HOW.items() if code == op), keep_error, word]

    def by_key(self, values: Iterable[Any]) -> dict[str, Any]:
        """Returns the values of :attr:`settings` by their keys."""
        return dict(zip(self.settings, values, strict=True))

    def experiment(self, settings: Mapping[str, Any]) -> Experiment:
        """Returns the experiment of some settings; raises Refused if one makes no sense."""
        model = self.session.model_of(settings["m"])
        alone, op, keep_error, word = (settings[key] for key in self.edit_settings)
        if alone not in WHERE or op not in HOW:
            raise Refused("There is no such setting.")
        basket = basket_of(settings["b"], model)
        image = self.session.serving.images.get(settings["pic"] or WHITE, model.pack)
        steering = basket.steering(WHERE[alone] == "1", HOW[op], bool(keep_error))
        return Experiment(model, image, steering, watched_word(model, basket, word))

    def reacts(self, live: Any, values: Iterable[Any]) -> bool:
        """Returns whether to run after a change: if the visitor wants that, and there is something to steer."""
        settings = self.by_key(values)
        return bool(live and basket_of(settings["b"], self.session.model_of(settings["m"])).active)

    @staticmethod
    def result(content: Markup, settings: Mapping[str, Any], button: str) -> Markup:
        """Returns a result that is marked as soon as the page has other settings; see :func:`html.result`."""
        return html.result(content, {key: as_text(key, value) for key, value in settings.items()}, button)

    def _stop_job(self, request: gr.Request) -> Markup:
        self.session.stop_job(request)
        return html.PIECES.stopped()
