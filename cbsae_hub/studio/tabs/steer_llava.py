"""The tab "Steer LLaVA": what it says of a picture before and after neurons are set, and all there is to compare."""

import difflib
from collections.abc import Iterable
from typing import Any

import gradio as gr

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import Basket, watched_word
from cbsae_hub.studio.links import HOW, MAX_QUESTION, MAX_WORD, WHERE, Link, as_text, basket_of
from cbsae_hub.studio.server.experiments import Asked, Intervention, Said
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import PRIVATE, WORK, Visit, kindly
from cbsae_hub.studio.tabs.unavailable import instead_of
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import attribute, escape
from cbsae_hub.studio.view.picture_box import PictureBox
from cbsae_hub.studio.view.pictures import WHITE, ImageRefused

QUESTIONS = (ONE_WORD, "Describe the image.", "Write a headline about this image.")


class SteerSettings:
    """How neurons are edited, the same for both steering tabs.

    Args:
        prefix: Of element ids.
        key: Before the parts of the address.
    """

    def __init__(self, prefix: str, key: str = ""):
        self.prefix, self.key = prefix, key

    def render(self) -> None:
        """Adds the components to the page that is being built."""
        self.where = gr.Radio(list(WHERE), value=next(iter(WHERE)), label="Where", elem_id=f"{self.prefix}-where")
        with gr.Accordion("More settings", open=False):
            self.how = gr.Radio(list(HOW), value=next(iter(HOW)), label="How", elem_id=f"{self.prefix}-how")
            self.word = gr.Textbox(
                label="Word to watch", placeholder="the strongest neuron's name", max_length=MAX_WORD,
                elem_id=f"{self.prefix}-word",
            )  # fmt: skip
            self.keep = gr.Checkbox(
                False, label="Put back what the SAE loses of the picture", elem_id=f"{self.prefix}-keep"
            )

    @property
    def inputs(self) -> list[Any]:
        """What handlers read; :func:`intervention` checks it."""
        return [self.where, self.how, self.keep, self.word]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of them."""
        return dict(zip((f"{self.key}{name}" for name in ("alone", "op", "keep", "word")), self.inputs))

    @staticmethod
    def restore(alone: bool, op: str, keep: bool, word: str) -> list[Any]:
        """What a link asks for, for :attr:`inputs`."""
        where = next(name for name, code in WHERE.items() if code == str(int(alone)))
        return [where, next(name for name, code in HOW.items() if code == op), keep, word]


def intervention(basket: Basket, where: Any, how: Any, keep: Any) -> Intervention:
    """What the basket does to a picture.

    Raises:
        ImageRefused: If a setting is none of the page's.
    """
    if where not in WHERE or how not in HOW:
        raise ImageRefused("There is no such setting.")
    return Intervention(basket.edits, WHERE[where] == "1", HOW[how], bool(keep))


class SteerLlavaTab:
    """One button, four answers; and a sweep over strengths.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit
        self.picture = PictureBox(visit, "llava")
        self.settings = SteerSettings("llava")

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.picture.render()
                self.question = gr.Textbox(
                    ONE_WORD, label="Question", max_length=MAX_QUESTION, lines=2, elem_id="question"
                )
                self.presets = gr.Dropdown(list(QUESTIONS), value=None, label="Or one of these", elem_id="presets")
                self.settings.render()
            with gr.Column(scale=8, min_width=280):
                with gr.Row():
                    self.ask_button = gr.Button("Ask LLaVA", variant="primary", elem_id="ask", min_width=120)
                    self.sweep_button = gr.Button("Sweep strengths", elem_id="sweep", min_width=120)
                    self.stop = gr.Button("Stop", variant="stop", elem_id="llava-stop", min_width=80)
                self.live = gr.Checkbox(
                    True, label="Ask again when the basket or the picture changes", elem_id="llava-live"
                )
                self.answers = gr.HTML(_EMPTY, elem_id="answers", min_height=180)
                self.swept = gr.HTML("", elem_id="swept")
        self.presets.change(
            None, [self.presets, self.question], [self.presets, self.question],
            js="(chosen, question) => [null, chosen ?? question]",
        )  # fmt: skip
        self.inputs = [
            self.visit.served, self.visit.basket, self.visit.picture, self.question, *self.settings.inputs
        ]  # fmt: skip
        run = gr.on([self.ask_button.click, self.question.submit], self.ask, self.inputs, self.answers, **WORK)
        sweep = self.sweep_button.click(self.sweep, self.inputs, self.swept, **WORK)
        self.stop.click(self._stop, None, [self.answers, self.swept], cancels=[run, sweep], queue=False, **PRIVATE)

    @kindly
    def ask(
        self, request: gr.Request, served: Any, basket: Any, picture: Any, question: Any, where: Any, how: Any,
        keep: Any, word: Any,
    ) -> str:  # fmt: skip
        """Four answers side by side."""
        loaded, arguments = self._arguments(served, basket, picture, question, where, how, keep, word)
        if problem := instead_of(loaded, "llava"):
            return problem
        with self.visit.serving.jobs.of(request.session_hash) as stop:
            asked = self.visit.serving.experiments.ask(loaded, *arguments, stop=stop)
        made = made_with(self.made, [served, basket, picture, question, where, how, keep, word])
        return html.belonging(_answers(asked, arguments[-1], bool(arguments[-2].edits)), made, "ask")

    @kindly
    def ask_again(self, request: gr.Request, live: Any, *arguments: Any) -> Any:
        """The same after a change, if the visitor wants that and there is something to steer."""
        if not live or not basket_of(arguments[1], self.visit.loaded(arguments[0])).edits:
            return gr.skip()
        return self.ask(request, *arguments)

    @kindly
    def sweep(
        self, request: gr.Request, served: Any, basket: Any, picture: Any, question: Any, where: Any, how: Any,
        keep: Any, word: Any,
    ) -> str:  # fmt: skip
        """Answers at several multiples of all strengths."""
        loaded, arguments = self._arguments(served, basket, picture, question, where, how, keep, word)
        if problem := instead_of(loaded, "llava"):
            return problem
        with self.visit.serving.jobs.of(request.session_hash) as stop:
            rows = self.visit.serving.experiments.sweep(loaded, *arguments, stop=stop)
        made = made_with(self.made, [served, basket, picture, question, where, how, keep, word])
        return html.belonging(_sweep(rows, arguments[-1]), made, "sweep")

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for; answers stay, marked if they are others."""
        settings = self.settings.restore(link.alone, link.op, link.keep, link.word)
        return [*self.picture.restore(loaded, link, new), link.question, *settings, link.live]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"pic": self.visit.picture, "ask": self.question, **self.settings.parts, "live": self.live}

    @property
    def made(self) -> tuple[str, ...]:
        """The parts of the address that answers are made with, in the order of :attr:`inputs`."""
        return ("m", "b", "pic", "ask", *self.settings.parts)

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [*self.picture.outputs, self.question, *self.settings.inputs, self.live]

    def _stop(self, request: gr.Request) -> list[str]:
        self.visit.serving.jobs.stop(request.session_hash)
        return [_STOPPED, ""]

    def _arguments(
        self, served: Any, basket: Any, picture: Any, question: Any, where: Any, how: Any, keep: Any, word: Any
    ) -> tuple[Loaded, tuple[Any, ...]]:
        """The model, and what an experiment is made of, checked."""
        loaded = self.visit.loaded(served)
        text = " ".join(str(question or "").split())[:MAX_QUESTION] or ONE_WORD
        if "<image>" in text:
            raise ImageRefused("The question must not contain <image>: the picture's place in it is fixed.")
        basket = basket_of(basket, loaded)
        shown = self.visit.serving.pictures.get(picture or WHITE, loaded.pack)
        return loaded, (shown, text, intervention(basket, where, how, keep), watched_word(loaded, basket, word))


def made_with(parts: Iterable[str], values: Iterable[Any]) -> dict[str, str]:
    """What a result is made with, by the parts of the address that say so."""
    return {key: as_text(key, value) for key, value in zip(parts, values, strict=True)}


COLUMNS = {
    "original": ("Original", "LLaVA as it is"),
    "sae": ("SAE at strength 0", "the picture through the SAE, nothing edited: what the SAE alone changes"),
    "steered": ("Steered", "with the neurons of the basket"),
    "random": ("Random control", "pushed exactly as far, in a random direction"),
}


def _answers(asked: Asked, word: str, steered: bool) -> str:
    columns = "".join(_column(name, getattr(asked, name), asked.original.answer, word) for name in COLUMNS)
    if word:
        note = f"One word asked for, how probable is “{escape(word)}”? The bars say so. "
    elif steered:
        note = "The neurons of the basket have no name: type the word whose probability you want. "
    else:
        note = "Nothing is set: the basket is empty, or all in it is muted. "
    return (
        f'<div class="cb-answers" role="status" aria-live="polite">{columns}</div><p class="cb-hint">{note}'
        f"<ins>Words</ins> that the original does not have are underlined. {asked.seconds:.2f} s.</p>"
    )


def _column(name: str, said: Said, original: str, word: str) -> str:
    title, why = COLUMNS[name]
    return (
        f'<section class="cb-answer{" cb-main" if name == "steered" else ""}"><h3 title="{attribute(why)}">{title}</h3>'
        f"<p>{_difference(original, said.answer)}</p>{_probability(said, word)}</section>"
    )


def _difference(before: str, after: str) -> str:
    """The answer, with what is new marked."""
    old, new = before.split(), after.split()
    parts = []
    for kind, _, _, start, stop in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        text = escape(" ".join(new[start:stop]))
        if text:
            parts.append(text if kind == "equal" else f"<ins>{text}</ins>")
    return " ".join(parts) or "<em>(nothing)</em>"


def _probability(said: Said, word: str) -> str:
    if said.probability is None:
        return ""
    return (
        f'<div class="cb-probability"><meter min="0" max="1" value="{said.probability:.4f}" '
        f'aria-label="probability of {attribute(word)}"></meter>'
        f"<span>{escape(word)}: {said.probability:.1%}</span></div>"
    )


def _sweep(rows: list[tuple[float, Said, Said]], word: str) -> str:
    def spelled(said: Said) -> list[str]:
        return [f"“{said.answer}”", "" if said.probability is None else f"{said.probability:.1%}"]

    probability = f"P({word})" if word else ""
    columns = ["Strength", "Steered", probability, "Random control", probability]
    cells = [[f"{factor:.0%} of the basket", *spelled(said), *spelled(control)] for factor, said, control in rows]
    return f"<h3>Strengths</h3>{_curve(rows, word) if word else ''}{html.table(columns, cells)}"


def _curve(rows: list[tuple[float, Said, Said]], word: str) -> str:
    """Probability over strength, steered and control."""
    last = rows[-1][0]
    lines = []
    for place, kind in ((1, "cb-steered"), (2, "cb-control")):
        points = [(100 * row[0] / last, 38 - 36 * (row[place].probability or 0)) for row in rows]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="0.9" class="{kind}"/>' for x, y in points)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline class="{kind}" points="{path}"/>{dots}')
    label = f"probability of {word} over the strength; the numbers are in the table below"
    return (
        f'<figure class="cb-curve"><svg viewBox="-2 0 104 40" role="img" aria-label="{attribute(label)}">'
        f'<line x1="0" x2="100" y1="38" y2="38"/>{"".join(lines)}</svg><figcaption>Probability of “{escape(word)}” '
        f"from 0 to 100 %, over strengths from 0 to {last:.0%} of the basket: solid steered, dashed random control."
        "</figcaption></figure>"
    )


_EMPTY = (
    '<p class="cb-empty">Put a neuron into the basket (Find concept, Neuron, or Start has some), choose a picture, and '
    "ask. You will see four answers: LLaVA as it is, the picture through the SAE, steered, and a random control.</p>"
)
_STOPPED = '<p class="cb-empty" role="status">Stopped.</p>'
