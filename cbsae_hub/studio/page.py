"""The page: a header, one tab per question, and the basket below all of them."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from cbsae_hub.studio.api import Api, described
from cbsae_hub.studio.arrival import Asked
from cbsae_hub.studio.basket import changed, dock
from cbsae_hub.studio.links import PARTS, TABS, Link, as_text, basket_of, basket_text, read
from cbsae_hub.studio.server.blocks import Page
from cbsae_hub.studio.server.experiments import ZERO_GPU
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.visit import LOOKUP, RUNNING, TRAIN, WORK, Visit, beat, kindly, warn
from cbsae_hub.studio.server.workshop import Workshop
from cbsae_hub.studio.tabs.find import FindTab
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.tabs.neuron import NeuronTab, number_label
from cbsae_hub.studio.tabs.own_concepts import OwnConceptsTab
from cbsae_hub.studio.tabs.scores import ScoresTab
from cbsae_hub.studio.tabs.start import StartTab
from cbsae_hub.studio.tabs.steer_image import SteerImageTab
from cbsae_hub.studio.tabs.steer_llava import SteerLlavaTab
from cbsae_hub.studio.tabs.use_it import UseItTab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.picture_box import preview
from cbsae_hub.studio.view.style import CSS, THEME, script

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
SPACES = "https://huggingface.co/spaces"
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "ssr_mode": False,
    "max_file_size": "8mb",
    "show_error": False,
    "allowed_paths": [],
    "footer_links": [],
    "enable_monitoring": False,
    "share": False,
    "mcp_server": True,
    "state_session_capacity": 300,  # what Gradio notes of visitors, 0.3 MB each; the page needs nothing of it
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
    with Page(title=TITLE, delete_cache=(3600, 3600), analytics_enabled=False) as page:
        _Page(serving).render(page)
    page.queue(max_size=256, default_concurrency_limit=4, api_open=False)  # nobody passes the queue by
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
        self.own, self.use = OwnConceptsTab(visit, Workshop(serving)), UseItTab(visit, described())

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
                with gr.Tab(NAMES[tab], id=tab) as opened:
                    gr.HTML(f"<h2>{NAMES[tab]}</h2>", elem_classes="cb-unseen")
                    getattr(self, tab).render()
                if tab in RUNNING:
                    opened.select(None, None, [visit.tab, visit.pulse], js=f"() => ['{tab}', String(Math.random())]")
                else:
                    opened.select(None, None, visit.tab, js=f"() => '{tab}'")
        visit.dock.render()
        acted = visit.dock.input(self._act, [visit.served, visit.tab, visit.basket, visit.unit],
                                 [visit.basket, visit.unit, visit.dock, visit.pulse], **LOOKUP,
                                 trigger_mode="multiple")  # fmt: skip
        for answered in (acted.then, acted.failure):
            answered(None, None, None, js="() => { window.cbAnswered(); return []; }")
        self._bind_address(page)
        previews = [self.llava.picture.preview, self.draw.picture.preview]
        for box in (self.llava.picture, self.draw.picture):
            box.bind(previews)
        for inspected in self.inspect.inspected:
            inspected.then(self._previews, [visit.served, visit.picture], previews, **LOOKUP)
        seen = [visit.tab, visit.served, visit.basket]
        gr.on([part.change for part in seen], self._code, seen, self.use.outputs, **LOOKUP, trigger_mode="always_last")
        reaction = {
            "inputs": [
                visit.tab, visit.served, self.neuron.shown, self.llava.live, *self.llava.inputs,
                self.draw.live, *self.draw.inputs,
            ],
            "outputs": [self.llava.answers, self.draw.grid, self.neuron.live],
        }  # fmt: skip
        changes = [visit.pulse.change, self.llava.settings.where.input, self.draw.settings.where.input]
        gr.on(changes, self._react, **reaction, **WORK, trigger_mode="always_last")
        asked = [visit.served, self.own.words, self.own.anyway]
        trained = self.own.train.click(self.own.add, asked, self.own.trained, **TRAIN)
        table = [self.scores.words, self.scores.sort]
        grown = [self.about, self.neuron.number, *self.scores.outputs]
        trained.then(self._adopt, [visit.served, *table], grown, **LOOKUP)
        page.unload(self._leave)
        page.load(None, None, None, js=script("title"))
        page.load(None, None, None, js=script("keys"))
        Api(self.serving).publish()

    @kindly
    def _act(self, event: gr.EventData, served: Any, tab: Any, basket: Any, unit: Any) -> list[Any]:
        """What a button of a card or of the basket does to the basket."""
        loaded = self.visit.loaded(served)
        act, neuron, value = (getattr(event, name, None) for name in ("act", "neuron", "value"))
        made = changed(basket_of(basket, loaded, unit), loaded, str(act), neuron, value)
        return [basket_text(made), made.unit, dock(loaded, made), beat(tab)]

    # --------------------------------------------------------------------------------------------- the address

    def _bind_address(self, page: gr.Blocks) -> None:
        """The address follows what the page says, and the page what the address says: static/address.js."""
        visit, tabs = self.visit, self._tabs
        parts = {**visit.parts, **{key: part for tab in tabs for key, part in tab.parts.items()}}
        said = [parts[key] for key in ("m", *PARTS)]
        self.everything = [
            visit.served, self.model, self.about, visit.basket, visit.unit, visit.aside, visit.dock, visit.picture,
            self.tabs, visit.tab, *(component for tab in tabs for component in tab.outputs), visit.pulse,
        ]  # fmt: skip
        fields = [{"key": "m", "usual": self.serving.first.key}] + [
            {
                "key": key,
                "usual": part.default,
                "codes": part.codes,
                "like": part.like,
                "typed": part.typed,
                "of": part.of,
            }
            for key, part in PARTS.items()
        ]
        space = os.environ.get("SPACE_ID", "")
        names = {name: tab for tab, name in NAMES.items()}
        told = (
            f"const fields = {json.dumps(fields)}, tabs = {json.dumps(names)}, "
            f"space = {json.dumps(space and f'{SPACES}/{space}')};"
        )
        page.load(None, said, None, js=f"(...values) => {{ {told}\n{script('address')} }}")
        results = [
            self.llava.answers, self.llava.swept, self.draw.grid, self.find.verdict, self.own.report, self.inspect.grid
        ]  # fmt: skip
        changes = [component.change for component in (*said, *results)]
        gr.on(changes, None, said, None, js="(...values) => { window.cbPage?.changed(values); return []; }")
        chosen = "(name, served) => { window.cbPage?.choose(name, served); return []; }"
        self.model.change(None, [self.model, visit.served], None, js=chosen)
        visit.kept.change(None, [visit.kept], None, js="(text) => { window.cbPage?.keep(text); return []; }")
        gone = visit.dock.go(self._go, [visit.served], self.everything, **LOOKUP, trigger_mode="multiple")
        for arrived in (gone.then, gone.failure):
            arrived(None, said, None, js="(...values) => { window.cbPage.arrived(values); return []; }")

    @property
    def _tabs(self) -> list[Any]:
        return [self.start, self.find, self.inspect, self.neuron, self.llava, self.draw, self.scores, self.own]

    @kindly
    def _go(self, event: gr.EventData, served: Any) -> list[Any]:
        """What an address asks for: of all that the page shows, only what differs from it is touched."""
        asked = Asked.of(event)
        loaded, said = asked.model(self.serving)
        pictures, left = asked.pictures(self.serving.pictures)
        link, bad = read({**asked.says, **pictures}, loaded)
        link = replace(link, **asked.brought)
        problems = [*said, *left]
        if bad:
            problems.append(f"Some of this link could not be read: {', '.join(sorted(bad))}.")
        for problem in problems:
            warn(problem, title="Link")
        return self._restored(loaded, link, asked.changed | ({"m"} if loaded.key != served else set()))

    def _restored(self, loaded: Loaded, link: Link, changed: set[str]) -> list[Any]:
        """All of the page as a link says, where that has changed."""

        def if_changed(keys: str, *values: Any) -> list[Any]:
            return list(values) if changed & set(keys.split()) else [gr.skip()] * len(values)

        new = "m" in changed
        values = [
            *if_changed("m", loaded.key, loaded.name, html.header(loaded.pack, loaded.own)),
            *if_changed("m b unit", basket_text(link.basket), link.basket.unit),
            *if_changed("aside", link.aside),
            *if_changed("m b unit", dock(loaded, link.basket)),
            *if_changed("m pic", link.picture),
            *if_changed("tab", gr.Tabs(selected=link.tab), link.tab),
        ]
        for tab in self._tabs:
            touched = changed & {"m", *tab.parts}
            values += tab.restore(loaded, link, new) if touched else [gr.skip()] * len(tab.outputs)
        return [*values, beat(link.tab)]

    # ------------------------------------------------------------------------------------------------ the rest

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
        shown = preview(self.visit, self.visit.loaded(served).pack, picture)
        return [shown, shown]

    @kindly
    def _adopt(self, served: Any, named: Any, sort: Any) -> list[Any]:
        """Shows that the model has the visitor's concepts now."""
        loaded = self.visit.loaded(served)
        link, _ = read({"named": as_text("named", named), "sort": as_text("sort", sort)}, loaded)
        number = gr.Number(label=number_label(loaded))
        return [html.header(loaded.pack, loaded.own), number, *self.scores.restore(loaded, link, True)]

    def _leave(self, request: gr.Request) -> None:
        self.serving.jobs.stop(request.session_hash)


_HEADING = (
    '<header class="cb-header"><h1>What does a vision model know?</h1><p>Look its neurons up, see where they fire, set '
    "them, and hear and see what changes.</p></header>"
)
