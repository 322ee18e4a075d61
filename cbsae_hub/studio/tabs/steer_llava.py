"""The tab "Steer LLaVA": answers about an image before and after neurons are set, beside everything to compare with."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import gradio as gr
from markupsafe import Markup

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.links import MAX_QUESTION, Link
from cbsae_hub.studio.server.experiments import Answer, Answers, Experiment, SweepRow
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import PRIVATE, WORK
from cbsae_hub.studio.tabs.steering import SteeringTab, versions
from cbsae_hub.studio.view.templates import template

QUESTIONS = (ONE_WORD, "Describe the image.", "Write a headline about this image.")
COLUMNS = versions("LLaVA")
_TEMPLATE = template("steer_llava")

T = TypeVar("T")


class SteerLlavaTab(SteeringTab):
    """One button, four answers; and a sweep over strengths."""

    name = "llava"

    def render(self) -> None:
        self.render_notice("llava")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.image.render()
                self.question = gr.Textbox(
                    ONE_WORD, label="Question", max_length=MAX_QUESTION, lines=2, elem_id="question"
                )
                self.presets = gr.Dropdown(list(QUESTIONS), value=None, label="Or one of these", elem_id="presets")
                self.render_edit_settings()
            with gr.Column(scale=8, min_width=280):
                with gr.Row():
                    self.ask_button = gr.Button("Ask LLaVA", variant="primary", elem_id="ask", min_width=120)
                    self.sweep_button = gr.Button("Sweep strengths", elem_id="sweep", min_width=120)
                    self.stop = gr.Button("Stop", variant="stop", elem_id="llava-stop", min_width=80)
                self.live = gr.Checkbox(
                    True, label="Ask again when the basket or the picture changes", elem_id="llava-live"
                )
                self.answers = gr.HTML(_TEMPLATE.empty(), elem_id="answers", min_height=180)
                self.strengths = gr.HTML("", elem_id="swept")
        self.presets.change(
            None, [self.presets, self.question], [self.presets, self.question],
            js="(chosen, question) => [null, chosen ?? question]",
        )  # fmt: skip
        self.settings |= {"ask": self.question, **self.edit_settings}
        self.parts = {"pic": self.session.image, "ask": self.question, **self.edit_settings, "live": self.live}
        self.outputs = [*self.image.outputs, self.question, *self.edit_settings.values(), self.live]
        inputs = list(self.settings.values())
        run = gr.on([self.ask_button.click, self.question.submit], self.ask, inputs, self.answers, **WORK)
        sweep = self.sweep_button.click(self.sweep, inputs, self.strengths, **WORK)
        self.stop.click(self._stop, None, [self.answers, self.strengths], cancels=[run, sweep], queue=False, **PRIVATE)

    @kindly
    def ask(self, request: gr.Request, *values: Any) -> str:
        """Returns four answers side by side."""
        return self._run(request, values, "ask", self.session.serving.experiments.ask, answers_html)

    @kindly
    def sweep(self, request: gr.Request, *values: Any) -> str:
        """Returns answers at several multiples of all strengths."""
        return self._run(request, values, "sweep", self.session.serving.experiments.sweep, _sweep)

    def _run(
        self, request: gr.Request, values: Iterable[Any], button: str, run: Callable[..., T],
        show: Callable[[T, Experiment], Markup],
    ) -> str:  # fmt: skip
        settings = self.by_key(values)
        experiment, question = self.experiment(settings), _question(settings["ask"])
        if problem := self.problem(experiment.model):
            return problem
        with self.session.serving.jobs.of(request.session_hash) as stop:
            answers = run(experiment, question, stop)
        return self.result(show(answers, experiment), settings, button)

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link; answers stay, marked if they are others."""
        edits = self.edit_values_of(link)
        return [*self.image.restore(model, link, new), link.question, *edits, link.live]

    def _stop(self, request: gr.Request) -> list[str]:
        return [self._stop_job(request), ""]


def _question(typed: Any) -> str:
    text = " ".join(str(typed or "").split())[:MAX_QUESTION] or ONE_WORD
    if "<image>" in text:
        raise Refused("The question must not contain <image>: the picture's place in it is fixed.")
    return text


def answers_html(answers: Answers, experiment: Experiment) -> Markup:
    """Returns four answers side by side."""
    if word := experiment.word:
        note = f"One word asked for, how probable is “{word}”? The bars say so."
    elif experiment.steering.edits:
        note = "The neurons of the basket have no name: type the word whose probability you want."
    else:
        note = "Nothing is set: the basket is empty, or all in it is muted."
    columns = [_column(name, getattr(answers, name), answers.original.text, word) for name in COLUMNS]
    return _TEMPLATE.answers(columns, note, answers.seconds)


def _column(name: str, answer: Answer, original: str, word: str) -> dict[str, Any]:
    title, explanation = COLUMNS[name]
    return {
        "title": title,
        "explanation": explanation,
        "main": name == "steered",
        "difference": _difference(original, answer.text),
        "probability": answer.probability,
        "word": word,
    }


def _difference(before: str, after: str) -> list[tuple[str, bool]]:
    """Returns the pieces of an answer, each with whether it is new."""
    old, new = before.split(), after.split()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(" ".join(new[start:stop]), kind != "equal") for kind, _, _, start, stop in blocks if start < stop]


def _sweep(rows: list[SweepRow], experiment: Experiment) -> Markup:
    word = experiment.word

    def spelled(answer: Answer) -> list[str]:
        return [f"“{answer.text}”", "" if answer.probability is None else f"{answer.probability:.1%}"]

    probability = f"P({word})" if word else ""
    columns = ["Strength", "Steered", probability, "Random control", probability]
    cells = [[f"{factor:.0%} of the basket", *spelled(steered), *spelled(control)] for factor, steered, control in rows]
    return _TEMPLATE.sweep(_curve(rows, word) if word else None, columns, cells)


def _curve(rows: list[SweepRow], word: str) -> dict[str, Any]:
    """Returns the points of probability over strength, steered and control."""
    last, lines = rows[-1][0], []
    for kind, answers in (("cb-steered", [row[1] for row in rows]), ("cb-control", [row[2] for row in rows])):
        points = [(100 * row[0] / last, 38 - 36 * (answer.probability or 0)) for row, answer in zip(rows, answers)]
        lines.append((kind, [(f"{x:.1f}", f"{y:.1f}") for x, y in points]))
    return {"word": word, "last": f"{last:.0%}", "lines": lines}
