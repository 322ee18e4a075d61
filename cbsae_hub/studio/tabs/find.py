"""The tab "Find concept": words in, ranked neurons out, with what each fires on."""

from typing import Any

import gradio as gr

from cbsae_hub.neurons.pack import FindResult
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.studio.links import MAX_QUERY, Link, as_text
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import LOOKUP, Visit, kindly, row_of, unremembered
from cbsae_hub.studio.view import html
from cbsae_hub.words import clean_name, name_key

LIMIT = 20


class FindTab:
    """Search by words; all answers come from the pack.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        examples = _example_queries(self.visit.serving.first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.query = gr.Textbox(
                    label="Concept", placeholder="one or a few words, such as " + ", ".join(examples[:2]),
                    max_length=MAX_QUERY, elem_id="query",
                )  # fmt: skip
                self.button = gr.Button("Find", variant="primary", elem_id="find")
                self.verdict = gr.HTML(elem_id="verdict")
                self.results = unremembered(gr.Radio([], label="Neurons", elem_id="results", visible=False))
                self.suggestions = unremembered(gr.Radio(examples, label=_TRY, elem_id="suggestions"))
            with gr.Column(scale=7, min_width=280):
                self.show = gr.Checkbox(True, label="Show where it fires", elem_id="show-heat")
                self.card = self.visit.card(_INVITATION, "card")
        found = [self.verdict, self.results, self.suggestions, self.card]
        served = self.visit.served
        gr.on([self.button.click, self.query.submit], self.search, [served, self.query], found, **LOOKUP)
        self.suggestions.input(lambda text: text, self.suggestions, self.query, **LOOKUP).then(
            self.search, [served, self.query], found, **LOOKUP
        )
        self.results.input(self.pick, [served, self.query, self.results], self.card, **LOOKUP)
        self.show.change(
            None, [self.show], None,
            js="(on) => document.querySelector('#card').classList.toggle('cb-plain', !on)",
        )  # fmt: skip

    @kindly
    def search(self, served: Any, query: Any) -> list[Any]:
        """Searches, and shows the best neuron at once."""
        return self._search(self.visit.loaded(served), served, query)

    def _search(self, loaded: Loaded, served: Any, query: Any, chosen: int | None = None) -> list[Any]:
        """What is found; of the neurons, one is shown: the chosen one if it is among them, else the best."""
        text = _clean(query)
        if not text:
            return [_made(served, query, html.verdict("not in this model", "Type a word or two.")), *_nothing(loaded)]
        result = loaded.pack.find(text, LIMIT, None if loaded.judge is None else loaded.judge.embed_texts)
        ids = list(dict.fromkeys(found.neuron for found in result.matches))
        near = [concept for concept in result.nearest if name_key(concept) != name_key(text)]
        label = _NEAR[result.near_by] if near else _TRY
        suggestions = gr.Radio(near or _example_queries(loaded), value=None, label=label)
        said = _made(served, query, html.verdict(result.verdict, _sentence(text, result, len(ids))))
        if not ids:
            return [said, gr.Radio([], value=None, visible=False), suggestions, _INVITATION]
        choices = [(html.neuron_title(loaded.pack.neurons[neuron]), str(neuron)) for neuron in ids]
        neuron = str(chosen if chosen in ids else ids[0])
        return [said, gr.Radio(choices, value=neuron, visible=True), suggestions, self.pick(served, text, neuron)]

    @kindly
    def pick(self, served: Any, query: Any, neuron: Any) -> str:
        """The card of a neuron."""
        loaded = self.visit.loaded(served)
        return html.neuron_card(loaded.pack, row_of(loaded, neuron))

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for: the query, and everything that a search shows."""
        if not link.query:
            return ["", "", *_nothing(loaded), link.heat]
        return [link.query, *self._search(loaded, loaded.key, link.query, link.found), link.heat]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.query, self.verdict, self.results, self.suggestions, self.card, self.show]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"q": self.query, "found": self.results, "heat": self.show}


_TRY = "Or try one of these"
_NEAR = {"meaning": "Near in meaning", "spelling": "Spelled alike"}
_INVITATION = '<section class="cb-card"><p>Type a concept, and see which neurons stand for it.</p></section>'


def _clean(query: Any) -> str:
    return clean_name(str(query or ""))[:MAX_QUERY]


def _nothing(loaded: Loaded) -> list[Any]:
    examples = gr.Radio(_example_queries(loaded), value=None, label=_TRY)
    return [gr.Radio([], value=None, visible=False), examples, _INVITATION]


def _made(served: Any, query: Any, content: str) -> str:
    return html.belonging(content, {"m": as_text("m", served), "q": as_text("q", query)}, "find")


def _sentence(text: str, result: FindResult, neurons: int) -> str:
    if not result.matches:
        return f"No neuron stands for “{text}”. Add it under Your concepts."
    best = f"#{result.matches[0].neuron}: {result.reason}."
    if result.verdict == STRONG:
        return f"{neurons} neuron{'s' if neurons > 1 else ''} found for “{text}”. The best is {best}"
    return f"No neuron surely stands for “{text}”; Your concepts can train one. The nearest is {best}"


def _example_queries(loaded: Loaded, count: int = 6) -> list[str]:
    """Names that search well: of the neurons with the best scores, each name once."""
    frame = loaded.pack.neurons.frame
    named = frame[frame["name"].notna() & (frame["status"] == "alive")].sort_values("score", ascending=False)
    return named["name"].drop_duplicates().head(count).tolist()
