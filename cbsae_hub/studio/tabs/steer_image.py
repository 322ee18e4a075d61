"""The tab "Steer image": unCLIP draws an image anew, seeds down, strengths across, and the control beside them."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import gradio as gr
from markupsafe import Markup

from cbsae_hub.pictures import grid_of
from cbsae_hub.steering.tower import Stopped
from cbsae_hub.studio.links import MAX_SEED, MAX_SEEDS, MAX_STEPS, MIN_STEPS, Link
from cbsae_hub.studio.server.experiments import DRAWN_FACTORS, STEPS, Drawing
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import PRIVATE, WORK
from cbsae_hub.studio.tabs.steering import SteeringTab
from cbsae_hub.studio.view.html import PIECES
from cbsae_hub.studio.view.images import as_webp, data_uri
from cbsae_hub.studio.view.templates import template

COLUMNS = ("Unsteered", *(f"{factor:.0%}" for factor in DRAWN_FACTORS), "Random control")
_TEMPLATE = template("steer_image")


class SteerImageTab(SteeringTab):
    """A grid of drawings that all start from the same noise in each row."""

    name, prefix = "draw", "draw."

    def render(self) -> None:
        self.render_notice("unclip")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.image.render()
                self.render_edit_settings()
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
                self.grid = gr.HTML(_TEMPLATE.empty(), elem_id="drawings", min_height=260)
        numbers = {"seed": self.seed, "seeds": self.seeds, "steps": self.steps}
        self.settings |= {**self.edit_settings, **numbers}
        self.parts = {"pic": self.session.image, **self.edit_settings, **numbers, "draw.live": self.live}
        self.outputs = [*self.image.outputs, *self.edit_settings.values(), *numbers.values(), self.live]
        run = self.draw_button.click(self.draw, list(self.settings.values()), self.grid, **WORK)
        self.stop.click(self._stop_job, None, self.grid, cancels=[run], queue=False, **PRIVATE)

    @kindly
    def draw(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Draws row after row."""
        settings = self.by_key(values)
        if problem := self.problem(self.session.model_of(settings["m"])):
            yield problem
            return
        experiment = self.experiment(settings)
        first, count = whole(settings["seed"], 0, MAX_SEED), whole(settings["seeds"], 1, MAX_SEEDS)
        seeds, steps = list(range(first, first + count)), whole(settings["steps"], MIN_STEPS, MAX_STEPS)
        rows: list[list[Drawing]] = []
        yield self.result(drawings(rows, seeds, experiment.word), settings, "draw")
        with self.session.serving.jobs.of(request.session_hash) as stop:
            try:
                for row in self.session.serving.experiments.draw(experiment, seeds, steps, stop):
                    rows.append(row)
                    yield self.result(drawings(rows, seeds, experiment.word), settings, "draw")
            except Stopped:  # here too: Gradio repeats the last thing that was yielded, after the answer of Stop
                yield PIECES.stopped()

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link, by default LLaVA's settings; drawings stay, marked."""
        edits = self.edit_values_of(link)
        return [*self.image.restore(model, link, new), *edits, link.seed, link.seeds, link.steps, link.draw_live]


def whole(value: Any, low: int, high: int) -> int:
    """Returns a whole number within bounds, or raises Refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value % 1:
        raise Refused(f"A whole number from {low} to {high} is needed, not {str(value)[:20]}.")
    return int(value)


def drawings(rows: list[list[Drawing]], seeds: list[int], word: str) -> Markup:
    """Returns the grid; rows that are still missing have their places already."""
    cells = [
        (seed, [_cell(row[place], seed, name) if row else None for place, name in enumerate(COLUMNS)])
        for seed, row in zip_longest(seeds, rows)
    ]
    sheet = None
    if rows:
        sheet = data_uri(as_webp(grid_of([[drawing.image for drawing in row] for row in rows]), lossless=True))
    return _TEMPLATE.drawings(["", *COLUMNS], cells, word, sheet)


def _cell(drawing: Drawing, seed: int, column: str) -> dict[str, Any]:
    return {
        "source": data_uri(as_webp(drawing.image)),
        "alt": f"drawing of seed {seed}, {column.lower()}",
        "concept": drawing.concept,
        "original": drawing.original,
    }
