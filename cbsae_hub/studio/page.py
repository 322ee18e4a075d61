"""The page: a header, one tab per question, and the basket below all of them."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import gradio as gr

from cbsae_hub.pipeline.answers import answers_in
from cbsae_hub.studio.api import Api, descriptions
from cbsae_hub.studio.basket import changed, dock
from cbsae_hub.studio.links import PARTS, TABS, Link, as_text, basket_of, basket_text, read
from cbsae_hub.studio.neuron_files import NeuronFiles
from cbsae_hub.studio.server.address import AddressRequest
from cbsae_hub.studio.server.blocks import Page
from cbsae_hub.studio.server.concept_training import ConceptTraining
from cbsae_hub.studio.server.experiments import ZERO_GPU
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import in_toast, kindly
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import LOOKUP, RUNNING, TRAIN, WORK, SessionState, pulse
from cbsae_hub.studio.tabs.find import FindTab
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.tabs.neuron import NeuronTab, number_label
from cbsae_hub.studio.tabs.own_concepts import OwnConceptsTab
from cbsae_hub.studio.tabs.scores import ScoresTab
from cbsae_hub.studio.tabs.start import StartTab
from cbsae_hub.studio.tabs.steer_clip import SteerClipTab
from cbsae_hub.studio.tabs.steer_image import SteerImageTab
from cbsae_hub.studio.tabs.steer_llava import SteerLlavaTab
from cbsae_hub.studio.tabs.suppress import SuppressTab
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.tabs.use_it import UseItTab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.image_box import preview
from cbsae_hub.studio.view.style import CSS, THEME, script

TITLE = "cbsae_hub: what does a vision model know?"
NAMES = {
    "start": "Start",
    "inspect": "Inspect image",
    "find": "Find concept",
    "neuron": "Neuron",
    "llava": "Steer LLaVA",
    "draw": "Steer image",
    "clip": "Steer CLIP",
    "suppress": "Suppress",
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
    "state_session_capacity": 300,  # visitors that Gradio takes notes of, 0.3 MB each; the page needs none of it
}


def build(models: str | Path | Sequence[str | Path], llava: str | None = None, unclip: str | None = None) -> gr.Blocks:
    """Builds the page; everything but the first model and its pack is loaded in the background.

    Args:
        models: Folder or Hub id of an SAE with a pack, or folder that ``cbsae explain`` wrote, or several: the first
            one is shown first.
        llava: Folder or Hub id of the LLaVA to steer; None for none.
        unclip: Folder or Hub id of the Stable unCLIP to steer; None for none.

    Raises:
        OSError: If the first model or its pack is missing or damaged.
        ValueError: If no model was given, or one twice.
    """
    sources = [models] if isinstance(models, (str, Path)) else models
    serving = Serving([one for source in sources for one in answers_in(source) or [str(source)]], llava, unclip)
    with Page(title=TITLE, delete_cache=(3600, 3600), analytics_enabled=False) as page:
        _Page(serving).render(page)
    page.routes = [*page.routes, *NeuronFiles(serving).routes]
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
        self.session = session = SessionState(serving)
        self.start, self.find, self.scores = StartTab(session), FindTab(session), ScoresTab(session)
        self.inspect, self.neuron = InspectTab(session), NeuronTab(session)
        self.llava, self.draw, self.clip = SteerLlavaTab(session), SteerImageTab(session), SteerClipTab(session)
        self.suppress = SuppressTab(session)
        self.own, self.use = OwnConceptsTab(session, ConceptTraining(serving)), UseItTab(session, descriptions())

    def render(self, page: gr.Blocks) -> None:
        """Adds everything to the page that is being built."""
        session = self.session
        with gr.Row(elem_id="top"):
            gr.HTML(html.PIECES.heading(), elem_id="heading")
            self.model = gr.Dropdown(
                list(self.serving.models),
                value=self.serving.first.key,
                label="Model",
                elem_id="model",
                min_width=200,
                scale=0,
            )
        self.about = gr.HTML(html.about(self.serving.first.pack), elem_id="about")
        with gr.Tabs(elem_id="tabs") as self.tabs:
            for tab in TABS:
                with gr.Tab(NAMES[tab], id=tab) as panel:
                    gr.HTML(html.PIECES.tab_heading(NAMES[tab]), elem_classes="cb-unseen")
                    getattr(self, tab).render()
                if tab in RUNNING:
                    panel.select(None, None, [session.tab, session.pulse], js=f"() => ['{tab}', String(Math.random())]")
                else:
                    panel.select(None, None, session.tab, js=f"() => '{tab}'")
        session.dock.render()
        self._bind_basket()
        self._bind_address(page)
        boxes = [self.llava.image, self.draw.image, self.clip.image]
        previews = [box.preview for box in boxes]
        for box in boxes:
            box.bind(previews)
        for event in self.inspect.events:
            event.then(self._previews, [session.model, session.image], previews, **LOOKUP)
        state = [session.tab, session.model, session.basket]
        gr.on(
            [part.change for part in state], self._code, state, self.use.outputs, **LOOKUP, trigger_mode="always_last"
        )
        self._bind_models()
        page.unload(session.stop_job)
        page.load(None, None, None, js=script("title"))
        page.load(None, None, None, js=script("keys"))
        Api(self.serving).publish()

    def _bind_basket(self) -> None:
        """Buttons of cards and of the basket change the basket, whatever tab is open."""
        session = self.session
        change = session.dock.input(self._act, [session.model, session.tab, session.basket, session.unit],
                                   [session.basket, session.unit, session.dock, session.pulse], **LOOKUP,
                                   trigger_mode="multiple")  # fmt: skip
        for event in (change.then, change.failure):
            event(None, None, None, js="() => { window.cbAnswered(); return []; }")

    def _bind_models(self) -> None:
        """The open tab runs what has changed; a training gives the page another model."""
        session = self.session
        changes = [session.pulse.change, *(tab.where.input for tab in (self.llava, self.draw, self.clip))]
        parts = [
            [self.llava.live, *self.llava.settings.values()], [self.draw.live, *self.draw.settings.values()],
            list(self.clip.settings.values()), self.suppress.inputs,
        ]  # fmt: skip
        self.counts = [len(part) for part in parts]
        inputs = [session.tab, session.model, self.neuron.neuron, *chain.from_iterable(parts)]
        outputs = [self.llava.answers, self.draw.grid, self.neuron.live, self.clip.bars, *self.suppress.results]
        gr.on(changes, self._react, inputs, outputs, **WORK, trigger_mode="always_last")
        wishes = [session.model, self.own.words, self.own.anyway]
        training = self.own.train.click(self.own.add, wishes, self.own.training_outputs, **TRAIN)
        table = [self.scores.words, self.scores.sort]
        adopting = [self.about, self.neuron.number, *self.scores.outputs]
        training.then(self._adopt, [session.model, *table], adopting, **LOOKUP)

    @kindly
    def _act(self, event: gr.EventData, key: Any, tab: Any, edits: Any, unit: Any) -> list[Any]:
        """Changes the basket by a button of a card or of the basket."""
        model = self.session.model_of(key)
        act, neuron, value = (getattr(event, name, None) for name in ("act", "neuron", "value"))
        basket = changed(basket_of(edits, model, unit), model, str(act), neuron, value)
        return [basket_text(basket), basket.unit, dock(model, basket), pulse(tab)]

    # --------------------------------------------------------------------------------------------- the address

    def _bind_address(self, page: gr.Blocks) -> None:
        """The address follows the page, and the page follows the address: static/address.js."""
        session, tabs = self.session, self._tabs
        parts = {**session.parts, **{key: part for tab in tabs for key, part in tab.parts.items()}}
        components = [parts[key] for key in ("m", *PARTS)]
        self.everything = [
            session.model, self.model, self.about, session.basket, session.unit, session.aside, session.dock,
            session.image, self.tabs, session.tab, *(component for tab in tabs for component in tab.outputs),
            session.pulse,
        ]  # fmt: skip
        page.load(None, components, None, js=f"(...values) => {{ {self._constants()}\n{script('address')} }}")
        results = [
            self.llava.answers, self.llava.strengths, self.draw.grid, self.clip.bars, self.clip.decision,
            self.suppress.accuracy, self.find.verdict, self.own.report, self.inspect.grid,
        ]  # fmt: skip
        # Gradio gives its classes their events at run time.
        changes = [component.change for component in (*components, *results)]  # type: ignore[attr-defined]
        gr.on(changes, None, components, None, js="(...values) => { window.cbPage?.changed(values); return []; }")
        choose = "(name, served) => { window.cbPage?.choose(name, served); return []; }"
        self.model.change(None, [self.model, session.model], None, js=choose)
        session.upload.change(None, [session.upload], None, js="(text) => { window.cbPage?.keep(text); return []; }")
        arrival = session.dock.go(self._go, [session.model], self.everything, **LOOKUP, trigger_mode="multiple")
        for event in (arrival.then, arrival.failure):
            event(None, components, None, js="(...values) => { window.cbPage.arrived(values); return []; }")

    def _constants(self) -> str:
        """Returns the constants of static/address.js."""
        names = "codes", "like", "typed", "of"
        fields = [{"key": "m", "usual": self.serving.first.key}] + [
            {"key": key, "usual": part.default, **{name: getattr(part, name) for name in names}}
            for key, part in PARTS.items()
        ]
        space = os.environ.get("SPACE_ID", "")
        tabs = {name: tab for tab, name in NAMES.items()}
        return (
            f"const fields = {json.dumps(fields)}, tabs = {json.dumps(tabs)}, "
            f"space = {json.dumps(space and f'{SPACES}/{space}')};"
        )

    @property
    def _tabs(self) -> list[Tab]:
        return [
            self.start, self.find, self.inspect, self.neuron, self.llava, self.draw, self.clip, self.suppress,
            self.scores, self.own, self.scores.collection,
        ]  # fmt: skip

    @kindly
    def _go(self, event: gr.EventData, key: Any) -> list[Any]:
        """Shows the state of an address; of all that the page shows, only what differs from it is touched."""
        request = AddressRequest.of(event)
        model, of_model = request.model(self.serving)
        texts, uploads, of_images = request.images(self.serving.images)
        link, bad = read({**request.texts, **texts}, model)
        link = replace(link, **uploads)
        problems = [*of_model, *of_images]
        if bad:
            problems.append(f"Some of this link could not be read: {', '.join(sorted(bad))}.")
        for problem in problems:
            gr.Warning(in_toast(problem), title="Link")
        return self._restored(model, link, request.keys | ({"m"} if model.key != key else set()))

    def _restored(self, model: LoadedModel, link: Link, keys: set[str]) -> list[Any]:
        """Returns values of all components for a link; those without a part among ``keys`` stay as they are."""

        def if_changed(parts: str, *values: Any) -> list[Any]:
            return list(values) if keys & set(parts.split()) else [gr.skip()] * len(values)

        new = "m" in keys
        values = [
            *if_changed("m", model.key, model.name, html.about(model.pack, model.own)),
            *if_changed("m b unit", basket_text(link.basket), link.basket.unit),
            *if_changed("aside", link.aside),
            *if_changed("m b unit", dock(model, link.basket)),
            *if_changed("m pic", link.image),
            *if_changed("tab", gr.Tabs(selected=link.tab), link.tab),
        ]
        for tab in self._tabs:
            values += tab.restore(model, link, new) if keys & {"m", *tab.parts} else [gr.skip()] * len(tab.outputs)
        return [*values, pulse(link.tab)]

    # ------------------------------------------------------------------------------------------------ the rest

    @kindly
    def _code(self, request: gr.Request, tab: Any, key: Any, edits: Any) -> list[Any]:
        """Returns code for what is on screen, when somebody looks at it."""
        return self.use.show(request, key, edits) if tab == "use" else [gr.skip()] * len(self.use.outputs)

    @kindly
    def _react(self, request: gr.Request, tab: Any, key: Any, neuron: Any, *values: Any) -> Iterator[list[Any]]:
        """Runs what the open tab shows, after something has changed."""
        rest = iter(values)
        (asks, *question), (draws, *drawing), clip, groups = ([*islice(rest, count)] for count in self.counts)
        llava, draw, neuron_alone, bars, *suppression = [gr.skip()] * 7
        if tab == "neuron":
            neuron_alone = self.neuron.alone(key, neuron)
        elif tab == "llava" and self.llava.reacts(asks, question):
            llava = self.llava.ask(request, *question)
        elif tab == "draw" and self.draw.reacts(draws, drawing):
            for grid in self.draw.draw(request, *drawing):
                yield [llava, grid, neuron_alone, bars, *suppression]
            return
        elif tab == "clip":
            bars = self.clip.show(*clip)
        elif tab == "suppress" and self.suppress.reacts(groups):
            suppression = self.suppress.find(*groups)
        # Gradio empties the outputs of a generator that yields nothing
        yield [llava, draw, neuron_alone, bars, *suppression]

    @kindly
    def _previews(self, key: Any, image: Any) -> list[str]:
        return [preview(self.session, self.session.model_of(key).pack, image)] * 3

    @kindly
    def _adopt(self, key: Any, words: Any, sort: Any) -> list[Any]:
        """Shows that the model has the visitor's concepts now."""
        model = self.session.model_of(key)
        link, _ = read({"named": as_text("named", words), "sort": as_text("sort", sort)}, model)
        number = gr.Number(label=number_label(model))
        return [html.about(model.pack, model.own), number, *self.scores.restore(model, link, True)]
