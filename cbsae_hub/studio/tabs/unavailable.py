"""Stands in for tabs that run a model where it cannot be had: the reason, stored answers, and a command."""

from shlex import quote
from typing import Any

import gradio as gr

from cbsae_hub.studio.server.generators import TITLES, Unavailable
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import as_typed, public_id
from cbsae_hub.studio.server.refusal import kindly
from cbsae_hub.studio.server.session import LOOKUP
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.words import number

ROWS = 12


class ReadingTab(Tab):
    """A tab whose results come from a LLaVA, an unCLIP or a CLIP that reads the model's encoder.

    Attributes:
        name: Id of the tab, before all element ids.
    """

    name: str

    def render_notice(self, generator: str) -> None:
        """Adds what says, as soon as the tab is opened, that nothing here reads the model's encoder."""
        self._generator = generator
        self.notice = gr.HTML(at_once(self.session.serving.first, generator), elem_id=f"{self.name}-notice")
        self.session.model.change(self.notify, self.session.model, self.notice, **LOOKUP)

    def problem(self, model: LoadedModel) -> str:
        """Returns what stands in place of results; "" where steering works. The notice has said the rest already."""
        reason = model.no_reader(self._generator)
        return html.PIECES.reason(reason) if reason else instead_of(model, self._generator)

    @kindly
    def notify(self, key: Any) -> str:
        """Returns the notice for another model."""
        return at_once(self.session.model_of(key), self._generator)


def at_once(model: LoadedModel, name: str) -> str:
    """Returns :func:`instead_of` as far as it shows before the generator is loaded: for a tab that is opened."""
    reason = model.no_reader(name)
    return "" if reason is None else _instead(model, name, reason)


def instead_of(model: LoadedModel, name: str) -> str:
    """Returns what stands in place of the results of "llava", "unclip" or "clip"; "" where steering works."""
    try:
        getattr(model, name)
    except Unavailable as reason:
        return _instead(model, name, str(reason))
    return ""


def _instead(model: LoadedModel, name: str, reason: str) -> str:
    """Returns the reason, a command only for a generator that reads this encoder, and stored answers."""
    if name not in TITLES:  # the encoder is no CLIP: no other model can take its place
        return html.PIECES.refusal(reason)
    encoder = model.sae.encoder_id
    command = None
    if generator := model.generators.advised(name, encoder, model.model_id):
        command = f"cbsae serve {quote(as_typed(model.model_id, model.name))} --{name} {quote(as_typed(generator))}"
    public = public_id(encoder or "of this model")
    return html.PIECES.unavailable(reason, command, TITLES[name], public, model.alpha, _best_answers(model))


def _best_answers(model: LoadedModel) -> list[tuple[str, ...]] | None:
    """Returns the answers of the neurons that steered best when scores were measured; None if they were not."""
    frame = model.pack.neurons.frame
    if model.alpha is None or "said_white" not in frame:
        return None
    best = frame[frame["steerability"].notna()].sort_values("steerability", ascending=False).head(ROWS)
    return [
        (html.neuron_title(row), f"“{row.said_white}”", number(row.steer_text_white, 2, "-"),
         f"“{row.said_white_random}”", number(row.steer_text_white_random, 2, "-"))
        for row in best.itertuples()
    ]  # fmt: skip
