"""The tab "Find concept": words in, ranked neurons out, with what each fires on."""

from typing import Any

import gradio as gr

from cbsae_hub.pack import FindResult
from cbsae_hub.studio import html
from cbsae_hub.studio.loaded import Loaded

MAX_QUERY = 100
LIMIT = 20


class FindTab:
    """Search by words; all answers come from the pack.

    Args:
        loaded: The model to serve.
    """

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.examples = _example_queries(loaded)

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.query = gr.Textbox(
                    label="Concept", placeholder="e.g. " + ", ".join(self.examples[:3]), max_length=MAX_QUERY,
                    elem_id="query",
                )  # fmt: skip
                self.button = gr.Button("Find", variant="primary", elem_id="find")
                self.verdict = gr.HTML(elem_id="verdict")
                self.results = gr.Radio([], label="Neurons", elem_id="results", visible=False)
                self.suggestions = gr.Radio(self.examples, label=_TRY, elem_id="suggestions")
            with gr.Column(scale=7, min_width=280):
                self.show = gr.Checkbox(True, label="Show where it fires", elem_id="show-heat")
                self.card = gr.HTML(_INVITATION, elem_id="card")
        found = [self.verdict, self.results, self.suggestions, self.card]
        settings = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        gr.on([self.button.click, self.query.submit], self.search, [self.query], found, **settings)
        self.suggestions.input(lambda text: text, self.suggestions, self.query, **settings).then(
            self.search, [self.query], found, **settings
        )
        self.results.input(self.pick, [self.query, self.results], self.card, **settings)
        self.show.input(
            None, [self.show], None,
            js="(on) => document.querySelector('#card').classList.toggle('cb-plain', !on)",
        )  # fmt: skip

    def search(self, query: Any) -> list[Any]:
        """Searches, and shows the best neuron at once."""
        text = str(query or "").strip()[:MAX_QUERY]
        if not text:
            return [html.verdict("not in this model", "Type a word or two."), *_nothing(self.examples)]
        result = self.loaded.pack.find(text, LIMIT, self._embed_texts())
        ids = list(dict.fromkeys(found.neuron for found in result.matches))
        near = [concept for concept in result.nearest if concept.lower() != text.lower()]
        suggestions = gr.Radio(near or self.examples, value=None, label="Near in meaning" if near else _TRY)
        said = html.verdict(result.verdict, _sentence(text, result, len(ids)))
        if not ids:
            return [said, gr.Radio([], value=None, visible=False), suggestions, _INVITATION]
        choices = [(html.neuron_title(self.loaded.pack.neurons[neuron]), str(neuron)) for neuron in ids]
        results = gr.Radio(choices, value=choices[0][1], visible=True)
        return [said, results, suggestions, self.pick(text, choices[0][1])]

    def pick(self, query: Any, neuron: Any) -> str:
        """The card of a neuron with a link to it. Both arguments come from the browser: they are checked again."""
        text, number = str(query or "").strip()[:MAX_QUERY], str(neuron)
        pack = self.loaded.pack
        if not number.isdecimal() or int(number) >= len(pack.neurons):
            raise gr.Error("There is no such neuron.", print_exception=False)
        link = html.link("Link to this view", {"q": text, "neuron": number})
        return html.neuron_card(pack, pack.neurons[int(number)], link)

    def open_link(self, parameters: dict[str, str]) -> list[Any]:
        """What a link asks for: the query, and everything that a search shows; unknown values are ignored."""
        text = parameters.get("q", "").strip()[:MAX_QUERY]
        if not text:
            return [gr.skip()] * len(self.outputs)
        found = self.search(text)
        number = parameters.get("neuron", "")
        if number.isdecimal() and int(number) < len(self.loaded.pack.neurons):
            found[3] = self.pick(text, number)
        return [text, *found]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`open_link` sets."""
        return [self.query, self.verdict, self.results, self.suggestions, self.card]

    def _embed_texts(self):
        return None if self.loaded.judge is None else self.loaded.judge.embed_texts


_TRY = "Or try one of these"
_INVITATION = '<section class="cb-card"><p>Type a concept, and see which neurons stand for it.</p></section>'


def _nothing(examples: list[str]) -> list[Any]:
    return [gr.Radio([], value=None, visible=False), gr.Radio(examples, value=None, label=_TRY), _INVITATION]


def _sentence(text: str, result: FindResult, neurons: int) -> str:
    if result.verdict == "strong":
        return f"{neurons} neuron{'s' if neurons > 1 else ''} found for “{text}”."
    if result.verdict == "weak":
        return f"Only loosely related neurons were found for “{text}”."
    return f"No neuron stands for “{text}”."


def _example_queries(loaded: Loaded, count: int = 6) -> list[str]:
    """Names that search well: of the neurons with the best scores, each name once."""
    frame = loaded.pack.neurons.frame
    named = frame[frame["name"].notna() & (frame["status"] == "alive")].sort_values("score", ascending=False)
    return named["name"].drop_duplicates().head(count).tolist()
