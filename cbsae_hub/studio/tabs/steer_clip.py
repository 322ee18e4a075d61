"""The tab "Steer CLIP": the most probable words as neurons are set, and the neurons that decide on them."""

from typing import Any

import gradio as gr
from markupsafe import Markup

from cbsae_hub.studio.links import MAX_FACTOR, Link
from cbsae_hub.studio.server.clip_experiments import Bars, Curve, Decision
from cbsae_hub.studio.server.experiments import FACTORS, Experiment
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import WORK
from cbsae_hub.studio.tabs.steering import SteeringTab, versions
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.images import WHITE, data_uri, is_sample
from cbsae_hub.studio.view.templates import template

COLUMNS = versions("CLIP")
_TEMPLATE = template("steer_clip")


class SteerClipTab(SteeringTab):
    """Bars that move with a slider, a curve over strengths, and the neurons whose removal changes the answer most."""

    name, prefix = "clip", "clip."

    def render(self) -> None:
        self.render_notice("clip")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.image.render()
                self.render_edit_settings()
            with gr.Column(scale=8, min_width=280):
                self.strength = gr.Slider(
                    0, MAX_FACTOR, 100, step=5, label="Strength, in % of the basket", elem_id="clip-strength",
                    buttons=[],
                )  # fmt: skip
                self.bars = gr.HTML(_TEMPLATE.empty(), elem_id="clip-bars", min_height=220)
                self.decide_button = gr.Button(
                    "Which neurons decide?", variant="primary", elem_id="clip-decide", min_width=120
                )
                self.decision = self.session.card(_TEMPLATE.about_decision(), "clip-decision")
        self.settings |= {**self.edit_settings, "clip.x": self.strength}
        self.parts = {"pic": self.session.image, **self.edit_settings, "clip.x": self.strength}
        self.outputs = [*self.image.outputs, *self.edit_settings.values(), self.strength]
        inputs = list(self.settings.values())
        while_dragged = {**WORK, "show_progress": "hidden", "trigger_mode": "always_last"}
        gr.on([self.strength.input, self.how.input, self.keep_error.input, self.word.submit], self.show, inputs,
              self.bars, **while_dragged)  # fmt: skip
        self.decide_button.click(self.decide, inputs, self.decision, **WORK)

    @kindly
    def show(self, *values: Any) -> str:
        """Returns the bars at the strength of the slider, and the curve over all strengths."""
        settings = self.by_key(values)
        experiment = self.experiment(settings)
        if problem := self.problem(experiment.model):
            return problem
        experiments, factor = self.session.serving.clip_experiments, _factor(settings["clip.x"])
        bars, curve = experiments.bars(experiment, factor), experiments.curve(experiment)
        return self.result(bars_html(bars, curve, experiment, factor), settings, "clip-strength")

    @kindly
    def decide(self, *values: Any) -> str:
        """Returns the neurons that CLIP's answer about the picture hangs on most."""
        settings = self.by_key(values)
        experiment = self.experiment(settings)
        if problem := self.problem(experiment.model):
            return problem
        of_pack = is_sample(str(settings["pic"]), experiment.model.pack)
        decision = self.session.serving.clip_experiments.decision(experiment, of_pack)
        of = {key: settings[key] or (WHITE if key == "pic" else "") for key in ("m", "pic")}
        return self.result(decision_html(decision, experiment.model), of, "clip-decide")

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link, by default LLaVA's settings; results stay, marked."""
        return [*self.image.restore(model, link, new), *self.edit_values_of(link), link.strength]


def _factor(percent: Any) -> float:
    """Returns the multiple of all strengths that the slider says, or raises Refused."""
    if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 <= percent <= MAX_FACTOR:
        raise Refused(f"The strength is between 0 and {MAX_FACTOR} % of the basket, not {str(percent)[:20]}.")
    return percent / 100


def bars_html(bars: Bars, curve: Curve, experiment: Experiment, factor: float) -> Markup:
    """Returns the words' probabilities side by side, and that of the watched word over strengths."""
    steers = bool(experiment.steering.edits)
    names = [name for name in COLUMNS if steers or name in ("original", "sae")]
    rows = [
        (word, word == experiment.word, [(name == "steered", bars.versions[name][place]) for name in names])
        for place, word in enumerate(bars.words)
    ]
    chart = _chart(curve, experiment.word, factor) if steers else None
    return _TEMPLATE.bars([COLUMNS[name] for name in names], rows, chart, len(curve.vocabulary), steers)


def _chart(curve: Curve, word: str, factor: float) -> dict[str, Any]:
    """Returns the points of probability over strength of the watched word, unless another gains twice as much."""
    gains = curve.steered.amax(0) - curve.original
    place = int(gains.argmax())
    if word in curve.vocabulary and 2 * gains[curve.vocabulary.index(word)] > gains[place]:
        place = curve.vocabulary.index(word)
    last = FACTORS[-1]

    def points(answers: Any) -> list[tuple[str, str]]:
        values = answers[:, place].tolist()
        return [(f"{100 * one / last:.1f}", f"{38 - 36 * value:.1f}") for one, value in zip(FACTORS, values)]

    lines = [("cb-steered", points(curve.steered)), ("cb-control", points(curve.random))]
    return {
        "word": curve.vocabulary[place], "last": f"{last:.0%}", "lines": lines, "now": f"{100 * factor / last:.1f}",
    }  # fmt: skip


def decision_html(decision: Decision, model: LoadedModel) -> Markup:
    """Returns the neurons that a picture's word hangs on, with where they fire."""
    picture = data_uri(decision.webp)
    cards = [
        {
            "neuron": one.neuron,
            "title": html.neuron_title(model.pack.neurons[one.neuron]),
            "probability": one.probability,
            "instead": None if one.instead == decision.word else one.instead,
            "heat": html.patch_heat(one.heat),
        }
        for one in decision.neurons
    ]
    return _TEMPLATE.decision(decision.word, decision.probability, cards, picture, decision.active)
