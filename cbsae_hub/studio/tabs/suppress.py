"""The tab "Suppress": the neurons that separate two groups of pictures, switched off, and how CLIP's answers change."""

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from cbsae_hub.metrics.spurious import GroupAccuracy
from cbsae_hub.studio.links import MAX_QUERY, MAX_TAU, MAX_WORD, MIN_TAU, SETS, TAU, Link, as_text
from cbsae_hub.studio.server.groups import MAX_SET, Reading, Suppressed, labels_of, sides
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, PRIVATE, WORK, unremembered
from cbsae_hub.studio.tabs.own_concepts import SEPARATORS
from cbsae_hub.studio.tabs.unavailable import ReadingTab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.images import read_image, smaller
from cbsae_hub.studio.view.templates import template

LISTED = 12  # neurons that can be switched on again
PICTURES = 5  # of each
COLUMNS = ("as it is", "switched off", "as many others off")
_TEMPLATE = template("suppress")


class SuppressTab(ReadingTab):
    """Two sets of pictures, the neurons that fire more on the first one, and right answers per group.

    Attributes:
        inputs: The components that :meth:`find` reads.
        results: The components that it sets.
    """

    name = "suppress"

    def render(self) -> None:
        first = self.session.serving.first
        self.render_notice("clip")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.sets = gr.Radio(list(SETS), value=next(iter(SETS)), label="Pictures", elem_id="suppress-sets")
                self.without = unremembered(gr.Radio(**_attribute(first, Link()), elem_id="suppress-without"))
                with gr.Accordion("Two sets of yours", open=False) as self.own:
                    self.first = _files("First set: what they have in common is looked for", "suppress-first")
                    self.second = _files("Second set: without it", "suppress-second")
                    self.first_shows, self.second_shows = (
                        gr.Textbox(label=f"The {place} set shows", max_length=MAX_WORD, elem_id=f"suppress-{place}-is")
                        for place in ("first", "second")
                    )
                    self.others = gr.Textbox(
                        label="Other words among which CLIP chooses", max_length=MAX_QUERY, elem_id="suppress-others"
                    )
                self.tau = gr.Slider(
                    MIN_TAU, MAX_TAU, TAU, step=0.25, label="Threshold tau, as a power of ten", elem_id="suppress-tau",
                    info="a neuron counts whose mean is higher by more than this on the first set", buttons=[],
                )  # fmt: skip
                self.find_button = gr.Button("Find the neurons", variant="primary", elem_id="suppress-find")
            with gr.Column(scale=8, min_width=280):
                self.accuracy = gr.HTML(_TEMPLATE.empty(), elem_id="suppress-accuracy", min_height=180)
                self.ticks = unremembered(gr.CheckboxGroup([], label="Switched off", elem_id="suppress-ticks"))
                self.neurons = self.session.card("", "suppress-neurons")
        choices: dict[str, Component] = {"sets": self.sets, "without": self.without, "tau": self.tau}
        words = {"first": self.first_shows, "second": self.second_shows, "others": self.others}
        self.parts = {**choices, **words}
        self.settings = {"m": self.session.model, **self.parts}
        inputs = self.inputs = [*self.settings.values(), self.first, self.second]
        self.results = [self.accuracy, self.ticks, self.neurons]
        self.outputs = [*self.parts.values(), *self.results]
        gr.on([self.find_button.click, self.without.input, self.tau.release], self.find, inputs, self.results, **WORK)
        self.ticks.input(self.switch, [*inputs, self.ticks], self.accuracy, **WORK)
        self.sets.change(self.choose, [self.session.model, self.sets], [self.without, self.own], **LOOKUP)
        gr.on([self.first.change, self.second.change], lambda: _nothing(), None, self.results, **PRIVATE)

    @kindly
    def choose(self, key: Any, sets: Any) -> list[Any]:
        """Shows what belongs to labelled samples, or to sets of the visitor's own."""
        samples = sets == next(iter(SETS))
        labelled = "suppress" in self.session.model_of(key).worked
        return [gr.Radio(visible=samples and labelled), gr.Accordion(open=not samples)]

    def reacts(self, values: Iterable[Any]) -> bool:
        """Returns whether to run after a change: labelled samples are read without being asked for."""
        settings, _ = self._by_key(values)
        model = self.session.model_of(settings["m"])
        return settings["sets"] == next(iter(SETS)) and "suppress" in model.worked and model.no_reader("clip") is None

    @kindly
    def find(self, *values: Any) -> list[Any]:
        """Returns values of :attr:`results`: right answers per group, and the neurons, all of them switched off."""
        settings, files = self._by_key(values)
        model = self.session.model_of(settings["m"])
        if problem := self.problem(model):
            return [problem, *_nothing()[1:]]
        reading = self._reading(model, settings, files)
        features, answers = self.session.serving.groups.suppress(model, reading, _tau(settings["tau"]))
        listed = features[:LISTED]
        ticks = [(html.neuron_title(model.pack.neurons[neuron]), str(neuron)) for neuron in listed]
        label = f"Switched off, of {len(features)} that separate the sets" if features else "None separates the sets"
        info = f"the {len(features) - LISTED} weaker ones are off in any case" if len(features) > LISTED else ""
        return [
            self._result(reading, features, answers, settings),
            gr.CheckboxGroup(ticks, value=[str(neuron) for neuron in listed], label=label, info=info),
            neurons_html(model, reading, listed),
        ]  # fmt: skip

    @kindly
    def switch(self, *values: Any) -> str:
        """Returns right answers per group if only the ticked ones of the listed neurons are switched off."""
        *values, ticks = values  # type: ignore[assignment]  # a tuple becomes a list
        settings, files = self._by_key(values)
        model = self.session.model_of(settings["m"])
        reading, tau = self._reading(model, settings, files), _tau(settings["tau"])
        listed = reading.difference.features(tau).tolist()[:LISTED]
        on = frozenset(neuron for neuron in listed if str(neuron) not in (ticks or ()))
        return self._result(reading, *self.session.serving.groups.suppress(model, reading, tau, on), settings)

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link; results stay unless the model is another."""
        sets = next(name for name, code in SETS.items() if code == link.sets)
        without = gr.Radio(**_attribute(model, link))
        words = [link.first_shows, link.second_shows, link.others]
        return [sets, without, link.tau, *words, *(_nothing() if new else [gr.skip()] * 3)]

    def _by_key(self, values: Iterable[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Returns the values of :attr:`settings` by their keys, and the two lists of files."""
        *settings, first, second = values
        return dict(zip(self.settings, settings, strict=True)), [first, second]

    def _reading(self, model: LoadedModel, settings: Mapping[str, Any], files: list[Any]) -> Reading:
        groups = self.session.serving.groups
        if settings["sets"] not in SETS:
            raise Refused("There is no such choice of pictures.")
        if SETS[settings["sets"]] == "samples":
            return groups.samples(model, labels_of(model), settings["without"] == "1")
        if any(len(paths or ()) > MAX_SET for paths in files):
            raise Refused(f"A set has at most {MAX_SET} pictures.")
        first, second = ([smaller(read_image(str(path))) for path in paths or ()] for paths in files)
        return groups.sets(model, first, second, answers_of(*(settings[key] for key in ("first", "second", "others"))))

    @staticmethod
    def _result(reading: Reading, features: list[int], answers: Suppressed, settings: Mapping[str, Any]) -> Markup:
        content = accuracy_html(reading, features, answers)
        return html.result(content, {key: as_text(key, value) for key, value in settings.items()}, "suppress-find")


def _files(label: str, elem_id: str) -> gr.File:
    """Returns a component for several pictures, whose files reach the handler unopened."""
    box = gr.File(label=label, file_count="multiple", file_types=["image"], height=110, elem_id=elem_id)
    box.preprocess = _paths_of  # type: ignore[method-assign]
    return box


def _paths_of(payload: Any) -> list[str]:
    """Returns the paths of uploaded files, which Gradio has checked to be some that were uploaded."""
    return [] if payload is None else [file.path for file in payload.root]


def _attribute(model: LoadedModel, link: Link) -> dict[str, Any]:
    """Returns the settings of the choice of what labelled pictures of the first set have in common."""
    record = model.worked.get("suppress")
    lacking, attribute = ("without it", "with the attribute") if record is None else sides(record)
    return {
        "choices": [(attribute, "0"), (lacking, "1")],
        "value": as_text("without", link.without),
        "label": "What the first set has in common",
        "visible": record is not None and link.sets == "samples",
    }


def _nothing() -> list[Any]:
    """Returns values of the results before there are any."""
    return [_TEMPLATE.empty(), gr.CheckboxGroup([], value=[], label="Switched off", info=""), ""]


def _tau(exponent: Any) -> float:
    """Returns the threshold that the slider says, or raises Refused."""
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)) or not MIN_TAU <= exponent <= MAX_TAU:
        raise Refused(f"The power of ten is between {MIN_TAU:g} and {MAX_TAU:g}, not {str(exponent)[:20]}.")
    return float(10**exponent)


def answers_of(first: Any, second: Any, others: Any) -> list[str]:
    """Returns the words among which CLIP chooses; the first two are right. None if none was typed."""
    right = [" ".join(str(word or "").split())[:MAX_WORD] for word in (first, second)]
    more = [" ".join(word.split())[:MAX_WORD] for word in SEPARATORS.split(str(others or ""))]
    if not any([*right, *more]):
        return []
    if not all(right):
        raise Refused("Say what each of the two sets shows, or nothing of either.")
    return [*right, *filter(None, more)]


def accuracy_html(reading: Reading, features: list[int], answers: Suppressed) -> Markup:
    """Returns right answers per group: as it is, with the neurons off, and with as many others off."""
    if reading.before is None:
        return _TEMPLATE.unanswered(len(features), answers.off)
    versions = [reading.before, answers.after, answers.random]
    rows = [
        (name, str(reading.before.images[group]), [_share(one, group) for one in versions])
        for group, name in enumerate(reading.names)
    ]
    rows.append(("all", str(sum(reading.before.images)), [None if one is None else one.overall for one in versions]))
    rows.append(("the worst group", "", [None if one is None else one.worst for one in versions]))
    return _TEMPLATE.accuracy(COLUMNS, rows, len(features), answers.off)


def _share(accuracy: GroupAccuracy | None, group: int) -> float | None:
    return None if accuracy is None else accuracy.groups[group]


def neurons_html(model: LoadedModel, reading: Reading, listed: list[int]) -> Markup:
    """Returns the listed neurons with their means on both sets, and the pictures on which they fire most."""
    means = reading.difference
    cards = [
        {
            "neuron": neuron,
            "title": html.neuron_title(model.pack.neurons[neuron]),
            "present": float(means.present[neuron]),
            "absent": float(means.absent[neuron]),
            "figures": html.example_figures(model.pack, neuron, PICTURES),
        }
        for neuron in listed
    ]
    return _TEMPLATE.neurons(cards)
