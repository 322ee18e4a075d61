"""The tab "Find concept": words in, ranked neurons out, with what each fires on."""

from typing import Any

import gradio as gr
from markupsafe import Markup

from cbsae_hub.neurons.pack import FindResult
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.studio.links import MAX_QUERY, Link, as_text
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import kindly
from cbsae_hub.studio.server.session import LOOKUP, row_of, unremembered
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.templates import template
from cbsae_hub.words import clean_name, same_name

LIMIT = 20
_TEMPLATE = template("find")


class FindTab(Tab):
    """Search by words; all answers come from the pack."""

    def render(self) -> None:
        examples = _example_queries(self.session.serving.first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.query = gr.Textbox(
                    label="Concept", max_length=MAX_QUERY, elem_id="query",
                    placeholder="one or a few words" + (f", such as {', '.join(examples[:2])}" if examples else ""),
                )  # fmt: skip
                self.button = gr.Button("Find", variant="primary", elem_id="find")
                self.verdict = gr.HTML(elem_id="verdict")
                self.results = unremembered(gr.Radio([], label="Neurons", elem_id="results", visible=False))
                self.suggestions = unremembered(gr.Radio(examples, label=_TRY, elem_id="suggestions"))
            with gr.Column(scale=7, min_width=280):
                self.show_heat = gr.Checkbox(True, label="Show where it fires", elem_id="show-heat")
                self.card = self.session.card(_TEMPLATE.invitation(), "card")
        self.outputs = [self.query, self.verdict, self.results, self.suggestions, self.card, self.show_heat]
        self.parts = {"q": self.query, "found": self.results, "heat": self.show_heat}
        answer = [self.verdict, self.results, self.suggestions, self.card]
        inputs = [self.session.model, self.query]
        gr.on([self.button.click, self.query.submit], self.search, inputs, answer, **LOOKUP)
        suggested = self.suggestions.input(lambda text: text, self.suggestions, self.query, **LOOKUP)
        suggested.then(self.search, inputs, answer, **LOOKUP)
        self.results.input(self.pick, [*inputs, self.results], self.card, **LOOKUP)
        self.show_heat.change(
            None, [self.show_heat], None,
            js="(on) => document.querySelector('#card').classList.toggle('cb-plain', !on)",
        )  # fmt: skip

    @kindly
    def search(self, key: Any, query: Any, preferred: int | None = None) -> list[Any]:
        """Returns the neurons that match, and the card of one: of the preferred one if it matches, else of the best."""
        model = self.session.model_of(key)
        text = clean_name(str(query or ""))[:MAX_QUERY]
        if not text:
            return [_verdict("not in this model", "Type a word or two.", key, query), *_nothing(model)]
        answer, ids = model.find(text, LIMIT)
        near = [concept for concept in answer.nearest if not same_name(concept, text)]
        label = _NEAR[answer.near_by] if near else _TRY
        suggestions = gr.Radio(near or _example_queries(model), value=None, label=label)
        verdict = _verdict(answer.verdict, _sentence(text, answer, len(ids)), key, query)
        verdict += html.PIECES.list_icons("results", [(n, icon) for n in ids if (icon := model.icon(n))])
        if not ids:
            return [verdict, gr.Radio([], value=None, visible=False), suggestions, _TEMPLATE.invitation()]
        choices = [(html.neuron_title(model.pack.neurons[neuron]), str(neuron)) for neuron in ids]
        neuron = str(preferred if preferred in ids else ids[0])
        info = html.about_marks(title for title, _ in choices)
        results = gr.Radio(choices, value=neuron, visible=True, info=info or "")
        return [verdict, results, suggestions, self.pick(key, text, neuron)]

    @kindly
    def pick(self, key: Any, query: Any, neuron: Any) -> str:
        """Returns the card of a neuron."""
        model = self.session.model_of(key)
        return html.neuron_card(model.pack, row_of(model, neuron))

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link: the query, and everything that a search shows."""
        if not link.query:
            return ["", "", *_nothing(model), link.show_heat]
        return [link.query, *self.search(model.key, link.query, link.match), link.show_heat]


_TRY = "Or try one of these"
_NEAR = {"meaning": "Near in meaning", "spelling": "Spelled alike"}


def _nothing(model: LoadedModel) -> list[Any]:
    examples = gr.Radio(_example_queries(model), value=None, label=_TRY)
    return [gr.Radio([], value=None, visible=False), examples, _TEMPLATE.invitation()]


def _verdict(verdict: str, text: str, key: Any, query: Any) -> Markup:
    content = _TEMPLATE.verdict(html.VERDICTS[verdict], verdict, text)
    return html.result(content, {"m": as_text("m", key), "q": as_text("q", query)}, "find")


def _sentence(text: str, answer: FindResult, neurons: int) -> str:
    if not answer.matches:
        return f"No neuron stands for “{text}”. Add it under Your concepts."
    best = f"#{answer.matches[0].neuron}: {answer.reason}."
    if answer.verdict == STRONG:
        return f"{neurons} neuron{'s' if neurons > 1 else ''} found for “{text}”. The best is {best}"
    return f"No neuron surely stands for “{text}”; Your concepts can train one. The nearest is {best}"


def _example_queries(model: LoadedModel) -> list[str]:
    """Returns names that search well: those of specific neurons that are better than chance, best first, each once."""
    return model.telling["name"].drop_duplicates().head(6).tolist()
