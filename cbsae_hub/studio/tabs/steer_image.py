"""The tab "Steer image": unCLIP draws a picture anew, seeds down, strengths across, and the control beside them."""

import io
from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.basket import watched_word
from cbsae_hub.studio.links import MAX_SEED, MAX_SEEDS, MAX_STEPS, MIN_STEPS, Link, basket_of
from cbsae_hub.studio.server.experiments import DRAWN, STEPS, Drawn
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import PRIVATE, WORK, Visit, kindly
from cbsae_hub.studio.tabs.steer_llava import SteerSettings, intervention, made_with
from cbsae_hub.studio.tabs.unavailable import instead_of
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import attribute, escape
from cbsae_hub.studio.view.picture_box import PictureBox
from cbsae_hub.studio.view.pictures import WHITE, ImageRefused, as_webp, data_uri

COLUMNS = ("Unsteered", *(f"{factor:.0%}" for factor in DRAWN), "Random control")


class SteerImageTab:
    """A grid of drawings that all start from the same noise in each row.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit
        self.picture = PictureBox(visit, "draw")
        self.settings = SteerSettings("draw", "draw.")

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.picture.render()
                self.settings.render()
                with gr.Row():
                    self.seeds = gr.Slider(1, MAX_SEEDS, 2, step=1, label="Seeds", elem_id="seeds", min_width=120)
                    self.steps = gr.Slider(
                        MIN_STEPS, MAX_STEPS, STEPS, step=1, label="Steps", elem_id="steps", min_width=120
                    )
                self.seed = gr.Number(0, label="First seed", precision=0, minimum=0, elem_id="seed")
            with gr.Column(scale=8, min_width=280):
                with gr.Row():
                    self.draw_button = gr.Button("Draw", variant="primary", elem_id="draw", min_width=120)
                    self.stop = gr.Button("Stop", variant="stop", elem_id="draw-stop", min_width=80)
                self.live = gr.Checkbox(
                    True, label="Draw again when the basket or the picture changes", elem_id="draw-live"
                )
                self.grid = gr.HTML(_EMPTY, elem_id="drawings", min_height=260)
        self.inputs = [
            self.visit.served, self.visit.basket, self.visit.picture, *self.settings.inputs,
            self.seed, self.seeds, self.steps,
        ]  # fmt: skip
        run = self.draw_button.click(self.draw, self.inputs, self.grid, **WORK)
        self.stop.click(self._stop, None, self.grid, cancels=[run], queue=False, **PRIVATE)

    @kindly
    def draw(
        self, request: gr.Request, served: Any, basket: Any, picture: Any, where: Any, how: Any, keep: Any, word: Any,
        seed: Any, seeds: Any, steps: Any,
    ) -> Iterator[str]:  # fmt: skip
        """Draws row after row."""
        loaded = self.visit.loaded(served)
        if problem := instead_of(loaded, "unclip"):
            yield problem
            return
        made = made_with(self.made, [served, basket, picture, where, how, keep, word, seed, seeds, steps])
        basket = basket_of(basket, loaded)
        edit = intervention(basket, where, how, keep)
        first, count, steps = whole(seed, 0, MAX_SEED), whole(seeds, 1, MAX_SEEDS), whole(steps, MIN_STEPS, MAX_STEPS)
        shown = self.visit.serving.pictures.get(picture or WHITE, loaded.pack)
        watched = watched_word(loaded, basket, word)
        rows: list[list[Drawn]] = []
        numbers = range(first, first + count)
        yield html.belonging(drawings([], list(numbers), watched), made, "draw")
        with self.visit.serving.jobs.of(request.session_hash) as stop:
            try:
                for row in self.visit.serving.experiments.draw(loaded, shown, edit, watched, numbers, steps, stop):
                    rows.append(row)
                    yield html.belonging(drawings(rows, list(numbers), watched), made, "draw")
            except Stopped:  # said here too: Gradio repeats the last thing that was yielded, after what Stop has said
                yield _STOPPED

    @kindly
    def draw_again(self, request: gr.Request, live: Any, *arguments: Any) -> Iterator[Any]:
        """The same after a change, if the visitor wants that and there is something to steer."""
        if not live or not basket_of(arguments[1], self.visit.loaded(arguments[0])).edits:
            yield gr.skip()
            return
        yield from self.draw(request, *arguments)

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for, of the settings what it says for LLaVA if nothing else; drawings stay, marked."""
        said = [
            (link.draw_alone, link.alone), (link.draw_op, link.op), (link.draw_keep, link.keep),
            (link.draw_word, link.word),
        ]  # fmt: skip
        settings = self.settings.restore(*(usual if own is None else own for own, usual in said))
        return [*self.picture.restore(loaded, link, new), *settings, link.seed, link.seeds, link.steps, link.draw_live]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        numbers = {"seed": self.seed, "seeds": self.seeds, "steps": self.steps}
        return {"pic": self.visit.picture, **self.settings.parts, **numbers, "draw.live": self.live}

    @property
    def made(self) -> tuple[str, ...]:
        """The parts of the address that drawings are made with, in the order of :attr:`inputs`."""
        return ("m", "b", "pic", *self.settings.parts, "seed", "seeds", "steps")

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [*self.picture.outputs, *self.settings.inputs, self.seed, self.seeds, self.steps, self.live]

    def _stop(self, request: gr.Request) -> str:
        self.visit.serving.jobs.stop(request.session_hash)
        return _STOPPED


def whole(value: Any, low: int, high: int) -> int:
    """A whole number within bounds.

    Raises:
        ImageRefused: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value % 1:
        raise ImageRefused(f"A whole number from {low} to {high} is needed, not {str(value)[:20]}.")
    return int(value)


def drawings(rows: list[list[Drawn]], seeds: list[int], word: str) -> str:
    """The grid as HTML; rows that are still missing have their places already."""
    head = html.heads(["", *COLUMNS])
    body = ""
    for number, seed in enumerate(seeds):
        row = rows[number] if number < len(rows) else None
        cells = "".join(
            _cell(row[place], seed, column, word) if row else '<td><div class="cb-pending"></div></td>'
            for place, column in enumerate(COLUMNS)
        )
        body += f"<tr><th>seed {seed}</th>{cells}</tr>"
    download = "" if not rows else (
        f'<a href="{data_uri(sheet(rows))}" download="drawings.webp">Download the drawings</a>'
    )  # fmt: skip
    note = "" if not word else (
        f"“{escape(word)}”: cosine of the drawing and the word, by the judge that named the neurons. "
    )  # fmt: skip
    table = html.scrolled(f'<table class="cb-drawings"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')
    return (
        f'{table}<p class="cb-hint" role="status">{note}“Original”: cosine of the drawing and the '
        "unsteered one of the same seed. All drawings of a row start from the same noise. "
        f"{download}</p>"
    )


def sheet(rows: list[list[Drawn]]) -> bytes:
    """All drawings in one picture, as WebP."""
    width, height = rows[0][0].picture.size
    whole = Image.new("RGB", (width * len(rows[0]), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, one in enumerate(row):
            whole.paste(one.picture, (x * width, y * height))
    buffer = io.BytesIO()
    whole.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def _cell(drawn: Drawn, seed: int, column: str, word: str) -> str:
    alt = attribute(f"drawing of seed {seed}, {column.lower()}")
    concept = "" if drawn.concept is None else f"<span>{escape(word)} {drawn.concept:.2f}</span>"
    original = "" if drawn.original is None else f"<span>original {drawn.original:.2f}</span>"
    return (
        f'<td><img src="{data_uri(as_webp(drawn.picture))}" alt="{alt}"><div class="cb-likeness">{concept}{original}'
        "</div></td>"
    )


_STOPPED = '<p class="cb-empty" role="status">Stopped.</p>'
_EMPTY = (
    '<p class="cb-empty">Put a neuron into the basket, choose a picture, and draw. Each row starts from its own noise; '
    "from left to right the basket gets stronger. The last column is pushed as far in a random direction.</p>"
)
