"""The page: a header, one tab per question, and the basket below all of them."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from cbsae_hub.studio import html
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.basket import Basket, changed, dock
from cbsae_hub.studio.experiments import ZERO_GPU
from cbsae_hub.studio.find import FindTab
from cbsae_hub.studio.inspect_image import InspectTab
from cbsae_hub.studio.links import MAX_SEED, MAX_SEEDS, MAX_STEPS, MIN_STEPS, TABS, Link, model_of, read, write
from cbsae_hub.studio.loaded import Loaded
from cbsae_hub.studio.neuron import NeuronTab, number_label
from cbsae_hub.studio.own_concepts import OwnConceptsTab
from cbsae_hub.studio.picture_box import preview
from cbsae_hub.studio.pictures import WHITE
from cbsae_hub.studio.scores import ScoresTab
from cbsae_hub.studio.serving import Serving
from cbsae_hub.studio.start import StartTab
from cbsae_hub.studio.steer_image import SteerImageTab, whole
from cbsae_hub.studio.steer_llava import SteerLlavaTab, intervention
from cbsae_hub.studio.style import CSS, THEME, script
from cbsae_hub.studio.use_it import UseItTab
from cbsae_hub.studio.visit import LOOKUP, PRIVATE, WORK, Visit, beat, kindly, row_of
from cbsae_hub.studio.workshop import Workshop

TITLE = "cbsae_hub: what does a vision model know?"
NAMES = {
    "start": "Start",
    "inspect": "Inspect image",
    "find": "Find concept",
    "neuron": "Neuron",
    "llava": "Steer LLaVA",
    "draw": "Steer image",
    "scores": "Map and scores",
    "own": "Your concepts",
    "use": "Use it",
}
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "ssr_mode": False,
    "max_file_size": "8mb",
    "show_error": False,
    "allowed_paths": [],
    "footer_links": [],
    "share": False,
    "mcp_server": True,
    "state_session_capacity": 300,  # of visitors whose state is kept: about 0.3 MB each, and each call by curl is one
}


def build(models: str | Path | Sequence[str | Path], llava: str | None = None, unclip: str | None = None) -> gr.Blocks:
    """Builds the page; what it needs beside the first model's pack is loaded in the background.

    Args:
        models: Folder or Hub id of an SAE with a pack, or several: the first one is shown first.
        llava: Folder or Hub id of the LLaVA that is steered; None for none.
        unclip: Folder or Hub id of the Stable unCLIP that is steered; None for none.

    Raises:
        OSError: If the first model or its pack is missing or damaged.
        ValueError: If no model was given.
    """
    serving = Serving([models] if isinstance(models, (str, Path)) else models, llava, unclip)
    with gr.Blocks(title=TITLE, delete_cache=(3600, 3600), analytics_enabled=False) as page:
        _Page(serving).render(page)
    page.queue(max_size=256, default_concurrency_limit=4)
    if os.environ.get(ZERO_GPU):  # models have to be there before a GPU is borrowed
        serving.warm_up()
    else:
        threading.Thread(target=serving.warm_up, daemon=True).start()
    return page


class _Page:
    """The tabs, and what happens between them."""

    def __init__(self, serving: Serving):
        self.serving = serving
        self.visit = visit = Visit(serving)
        self.start, self.find, self.scores = StartTab(visit), FindTab(visit), ScoresTab(visit)
        self.inspect, self.neuron = InspectTab(visit), NeuronTab(visit)
        self.llava, self.draw = SteerLlavaTab(visit), SteerImageTab(visit)
        self.own, self.use = OwnConceptsTab(visit, Workshop(serving)), UseItTab(visit)

    def render(self, page: gr.Blocks) -> None:
        """Adds everything to the page that is being built."""
        visit = self.visit
        with gr.Row(elem_id="top"):
            gr.HTML(_HEADING, elem_id="heading")
            self.model = gr.Dropdown(
                list(self.serving.models),
                value=self.serving.first.key,
                label="Model",
                elem_id="model",
                min_width=200,
                scale=0,
            )
        self.about = gr.HTML(html.header(self.serving.first.pack), elem_id="about")
        with gr.Tabs(elem_id="tabs") as self.tabs:
            for tab in TABS:
                with gr.Tab(NAMES[tab], id=tab):
                    getattr(self, tab).render()
        visit.dock.render()
        self._bind_basket()
        self._bind_links(page)
        previews = [self.llava.picture.preview, self.draw.picture.preview]
        for box in (self.llava.picture, self.draw.picture):
            box.bind(previews)
        for inspected in self.inspect.inspected:
            inspected.then(self._previews, [visit.served, visit.picture], previews, **LOOKUP)
        self.tabs.select(self._selected, None, [visit.tab, visit.pulse], **LOOKUP)
        seen = [visit.tab, visit.served, visit.basket]
        gr.on([visit.tab.change, visit.basket.change], self._code, seen, self.use.outputs, **LOOKUP)
        reaction = {
            "inputs": [
                visit.tab, visit.served, self.neuron.number, self.llava.live, *self.llava.inputs,
                self.draw.live, *self.draw.inputs,
            ],
            "outputs": [self.llava.answers, self.draw.grid, self.neuron.live],
        }  # fmt: skip
        changes = [visit.pulse.change, self.llava.settings.where.input, self.draw.settings.where.input]
        gr.on(changes, self._react, **reaction, **WORK, trigger_mode="always_last")
        asked = [visit.served, self.own.words, self.own.anyway]
        trained = self.own.train.click(self.own.add, asked, self.own.trained, **PRIVATE)
        grown = [self.about, self.neuron.number, *self.scores.outputs]
        trained.then(self._adopt, [visit.served], grown, **LOOKUP)
        page.unload(self._leave)
        Api(self.serving).publish()

    # --------------------------------------------------------------------------------------------- the basket

    def _bind_basket(self) -> None:
        visit = self.visit
        shown = [visit.basket, visit.dock]
        moved = [*shown, visit.pulse, self.tabs, visit.tab, *self.neuron.outputs]
        for listen in (visit.dock.input, *(card.click for card in visit.cards)):
            listen(self._act, [visit.served, visit.tab, visit.basket], moved, **LOOKUP, trigger_mode="multiple")

    @kindly
    def _act(self, event: gr.EventData, served: Any, tab: Any, basket: Any) -> list[Any]:
        """What a button of a card or of the basket does: it opens a neuron's page, or changes the basket."""
        loaded = self.serving.of(served)
        act, neuron, value = (getattr(event, name, None) for name in ("act", "neuron", "value"))
        if act == "open":
            number = row_of(loaded, neuron).neuron
            opened = [beat("neuron"), gr.Tabs(selected="neuron"), "neuron", *self.neuron.show(served, number)]
            return [gr.skip(), gr.skip(), *opened]
        basket = changed(basket, loaded, str(act), neuron, value)
        return [basket, dock(loaded, basket), beat(tab), *[gr.skip()] * (2 + len(self.neuron.outputs))]

    # ------------------------------------------------------------------------------------ links and examples

    def _bind_links(self, page: gr.Blocks) -> None:
        visit = self.visit
        self.link = gr.Textbox(visible="hidden", elem_id="link")
        self.everything = everything = [
            visit.served, self.model, self.about, visit.basket, visit.dock, visit.picture, visit.pulse, self.tabs,
            visit.tab, *(component for tab in self._restored for component in tab.outputs),
        ]  # fmt: skip
        page.load(self._open, None, everything, **LOOKUP)
        loading = {**LOOKUP, "show_progress": "minimal", "show_progress_on": self.about}
        self.model.input(self._choose, [self.model, visit.tab], everything, **loading)
        self.start.cards.click(self._try, [visit.served], everything, **LOOKUP)
        self.scores.maps.click(self._dot, None, everything, **LOOKUP)
        visit.dock.link(
            self._link,
            [visit.served, visit.tab, visit.basket, visit.picture, self.find.query, self.neuron.number,
             self.llava.question, self.draw.seed, self.draw.seeds, self.draw.steps,
             *self.llava.settings.inputs, *self.draw.settings.inputs],
            self.link, **LOOKUP,
        ).then(None, self.link, None, js=script("copy"))  # fmt: skip

    @property
    def _restored(self) -> list[Any]:
        return [self.start, self.find, self.inspect, self.neuron, self.llava, self.draw, self.scores, self.own]

    @kindly
    def _restore(self, loaded: Loaded, link: Link) -> list[Any]:
        """Everything as a link says."""
        tab = gr.Tabs(selected=link.tab) if link.tab else gr.skip()
        return [
            loaded.key, gr.Dropdown(value=loaded.name), html.header(loaded.pack), link.basket,
            dock(loaded, link.basket), link.picture or WHITE, beat(link.tab), tab, link.tab or gr.skip(),
            *(value for one in self._restored for value in one.restore(loaded, link)),
        ]  # fmt: skip

    def _open(self, request: gr.Request) -> list[Any]:
        """What the page's address asks for. Without anything, the page stays as it was sent."""
        parameters = dict(request.query_params)
        model = model_of(parameters, self.serving.models)
        loaded = self.serving.first if model is None else self.serving.of(model)
        link, bad = read(parameters, loaded)
        if parameters.get("m") not in (None, model):
            bad.append("m")
        if bad:
            gr.Warning(f"Some of this link could not be read: {', '.join(sorted(bad))[:80]}.", title="Link")
        if link.query and link.tab is None:
            link = replace(link, tab="find")
        if link == Link() and loaded is self.serving.first:
            return [gr.skip()] * len(self.everything)
        return self._restore(loaded, link)

    @kindly
    def _choose(self, model: Any, tab: Any) -> list[Any]:
        """Another model of the allow-list; what belonged to the last one goes."""
        return self._restore(self.serving.of(model), Link(tab=tab if tab in TABS else None))

    @kindly
    def _try(self, event: gr.EventData, served: Any) -> list[Any]:
        """A worked example."""
        return self._restore(self.serving.of(served), self.start.chosen(event, served))

    @kindly
    def _dot(self, event: gr.EventData) -> list[Any]:
        """The neuron of a dot on a map, which may be of the model's parent."""
        loaded = self.serving.of(getattr(event, "model", None))
        return self._restore(loaded, Link(tab="neuron", neuron=row_of(loaded, getattr(event, "neuron", None)).neuron))

    @kindly
    def _link(
        self, served: Any, tab: Any, basket: Any, picture: Any, query: Any, neuron: Any, question: Any, seed: Any,
        seeds: Any, steps: Any, *settings: Any,
    ) -> str:  # fmt: skip
        """The address of what is on screen; of a Space, that of its page on the Hub."""
        loaded = self.serving.of(served)
        of_llava, of_draw = settings[: len(settings) // 2], settings[len(settings) // 2 :]
        *chosen, word = of_draw if tab == "draw" else of_llava
        edit = intervention(basket, *chosen)
        steered = tab in ("llava", "draw")
        link = Link(
            model=loaded.name if loaded.model_id != self.serving.first.model_id else None,
            tab=tab if tab in TABS else None,
            query=str(query or "") if tab == "find" else "",
            neuron=row_of(loaded, int(neuron or 0)).neuron if tab == "neuron" else None,
            basket=_shipped(basket, loaded),
            picture=str(picture) if tab in ("inspect", "llava", "draw") else None,
            question=str(question or "") if tab == "llava" else "",
            word=str(word or "") if steered else "",
            alone=edit.alone if steered else None,
            op=edit.op if steered else None,
            keep=edit.keep_error if steered else None,
            seed=whole(seed, 0, MAX_SEED) if tab == "draw" else None,
            seeds=whole(seeds, 1, MAX_SEEDS) if tab == "draw" else None,
            steps=whole(steps, MIN_STEPS, MAX_STEPS) if tab == "draw" else None,
        )
        space = os.environ.get("SPACE_ID")
        return f"{f'https://huggingface.co/spaces/{space}' if space else ''}?{write(link)}"

    # ------------------------------------------------------------------------------------------------ the rest

    def _selected(self, event: gr.SelectData) -> list[Any]:
        tab = TABS[event.index] if isinstance(event.index, int) and 0 <= event.index < len(TABS) else TABS[0]
        return [tab, beat(tab)]

    @kindly
    def _code(self, request: gr.Request, tab: Any, served: Any, basket: Any) -> list[Any]:
        """Code for what is on screen, when somebody looks at it."""
        return self.use.show(request, served, basket) if tab == "use" else [gr.skip()] * len(self.use.outputs)

    @kindly
    def _react(self, request: gr.Request, tab: Any, served: Any, neuron: Any, *settings: Any) -> Iterator[list[Any]]:
        """Runs what the open tab shows, after something has changed."""
        asked, drawn = settings[: len(self.llava.inputs) + 1], settings[len(self.llava.inputs) + 1 :]
        quiet = gr.skip()
        if tab == "neuron":
            yield [quiet, quiet, self.neuron.alone(served, neuron)]
        elif tab == "llava":
            yield [self.llava.ask_again(request, *asked), quiet, quiet]
        elif tab == "draw":
            for grid in self.draw.draw_again(request, *drawn):
                yield [quiet, grid, quiet]

    @kindly
    def _previews(self, served: Any, picture: Any) -> list[str]:
        shown = preview(self.visit, self.serving.of(served).pack, picture)
        return [shown, shown]

    @kindly
    def _adopt(self, served: Any) -> list[Any]:
        """Shows that the model has the visitor's concepts now."""
        loaded = self.serving.of(served)
        number = gr.Number(label=number_label(loaded))
        return [html.header(loaded.pack, loaded.own), number, *self.scores.restore(loaded, Link())]

    def _leave(self, request: gr.Request) -> None:
        self.serving.jobs.stop(request.session_hash)


def _shipped(basket: Basket, loaded: Loaded) -> Basket:
    """The basket without neurons that only this visitor has."""
    last = len(loaded.pack.neurons) - loaded.own
    return Basket(tuple(item for item in basket.items if item.neuron < last), basket.unit)


_HEADING = (
    '<header class="cb-header"><h1>What does a vision model know?</h1><p>Look its neurons up, see where they fire, set '
    "them, and hear and see what changes.</p></header>"
)
