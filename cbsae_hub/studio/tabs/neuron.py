"""The tab "Neuron": everything that is known of one neuron, and what it alone makes LLaVA say and unCLIP draw."""

import math
import random
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup

from cbsae_hub.metrics.activity import SHOWN_BINS_PER_OCTAVE
from cbsae_hub.studio.basket import range_of
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.generators import TITLES
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import kindly
from cbsae_hub.studio.server.session import LOOKUP, SessionState, pulse, row_of, state
from cbsae_hub.studio.tabs.maps import is_relevancy, map_titles, maps_choice
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.images import as_webp, data_uri
from cbsae_hub.studio.view.templates import template

MAX_STRIPS = 64  # strips of relevancy maps, of all visitors together
_TEMPLATE = template("neuron")


class NeuronTab(Tab):
    """One neuron after the other, by number, by name from other tabs, or at random."""

    def __init__(self, session: SessionState):
        super().__init__(session)
        self.relevancies: Results[Markup] = Results(MAX_STRIPS)

    def render(self) -> None:
        first = self.session.serving.first
        best = first.best_neuron
        with gr.Row(elem_id="neuron-bar"):
            self.number = gr.Number(
                best, label=number_label(first), precision=0, minimum=0, elem_id="neuron-number", min_width=170, scale=0
            )
            self.neuron = state("", "neuron")
            small: dict[str, Any] = {"scale": 0, "size": "md", "min_width": 100}
            self.previous = gr.Button("Previous", elem_id="neuron-previous", **small)
            self.next = gr.Button("Next", elem_id="neuron-next", **small)
            self.random = gr.Button("Random", elem_id="neuron-random", **small)
        self.maps = maps_choice("neuron-maps")
        with gr.Row(equal_height=False):
            with gr.Column(scale=9, min_width=280):
                self.page = self.session.card(self._page(first, best), "neuron-page")
            with gr.Column(scale=3, min_width=240):
                self.live = gr.HTML(_live(first, best), elem_id="neuron-live")
        turned = [self.number, self.neuron, self.page, self.live]
        self.outputs = [*turned, self.maps]
        self.parts = {"neuron": self.neuron, "map": self.maps}
        key, outputs = self.session.model, [*turned, self.session.pulse]
        self.number.submit(self.turn, [key, self.number, self.maps], outputs, **LOOKUP)
        for button, step in ((self.previous, -1), (self.next, 1), (self.random, 0)):
            button.click(self._mover(step), [key, self.neuron, self.maps], outputs, **LOOKUP)
        self.maps.input(self.redraw, [key, self.neuron, self.maps], self.page, **LOOKUP)

    @kindly
    def turn(self, key: Any, neuron: Any, maps: Any = None) -> list[Any]:
        """Shows another neuron, and has it speak and draw."""
        model = self.session.model_of(key)
        number = row_of(model, neuron).neuron
        return [number, str(number), self._page(model, number, maps), _live(model, number), pulse("neuron")]

    @kindly
    def redraw(self, key: Any, neuron: Any, maps: Any) -> Markup:
        """Shows the neuron with other maps on its pictures."""
        model = self.session.model_of(key)
        return self._page(model, _number(model, neuron), maps)

    @kindly
    def alone(self, key: Any, neuron: Any) -> str:
        """Returns what the neuron alone makes LLaVA say and unCLIP draw."""
        model = self.session.model_of(key)
        number = _number(model, neuron)
        answer, drawing = self.session.serving.experiments.neuron_alone(model, number)
        source, stored = drawing and data_uri(as_webp(drawing.image)), model.icon(number, "drawn")
        return _TEMPLATE.alone(number, f"{range_of(model, number).start:g}", answer, source, stored, _reasons(model))

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link."""
        number = model.best_neuron if link.neuron is None else link.neuron
        text = "" if link.neuron is None else str(number)
        maps = map_titles(link.maps)
        page = self._page(model, number, maps)
        return [gr.Number(number, label=number_label(model)), text, page, _live(model, number), maps]

    def _page(self, model: LoadedModel, neuron: int, maps: Any = None) -> Markup:
        strip = None
        if is_relevancy(maps) and not model.pack.of_texts:
            strip = self.relevancies.of((model.key, neuron), lambda: relevancy_strip(model, neuron))
        return neuron_page(model, neuron, self.session.serving.pruned_from(model, neuron), strip)

    def _mover(self, step: int) -> Any:
        @kindly
        def move(key: Any, neuron: Any, maps: Any = None) -> list[Any]:
            model = self.session.model_of(key)
            if step:
                return self.turn(key, (_number(model, neuron) + step) % len(model.pack.neurons), maps)
            frame = model.pack.neurons.frame
            return self.turn(key, int(random.choice(frame.loc[frame["status"] != "dead", "neuron"].tolist())), maps)

        return move


def relevancy_strip(model: LoadedModel, neuron: int) -> Markup:
    """Returns a neuron's strongest images with its relevancy maps, for which the encoder runs."""
    examples = model.pack.examples(neuron, "top", limit=html.STRIP)
    images = [one.image for one in examples]
    maps = model.relevance(neuron, images, of_pack=True) if images else np.empty((0, 1, 1))
    return html.relevancy_strip(model.pack, examples, maps)


def neuron_page(
    model: LoadedModel, neuron: int, pruned_from: Sequence[str] = (), strips: Markup | None = None
) -> Markup:
    """Returns everything that the pack has about a neuron, and the models that were made without it.

    Args:
        model: The model.
        neuron: The neuron.
        pruned_from: Names of those models.
        strips: What is shown instead of the example strips with their patch maps.
    """
    row = model.pack.neurons[neuron]
    parent_ids = getattr(model.sae, "sae_neuron_ids", None)
    return _TEMPLATE.page(
        head=html.neuron_head(model.pack, row),
        pruned_from=pruned_from,
        origin=parent_ids[neuron] if parent_ids and row.kind != "cb" else None,
        names=_names(row),
        histogram=_histogram(row, "tokens" if model.pack.of_texts else "patches"),
        steerability=_steerability(row),
        alpha=model.alpha,
        strips=html.strips(model.pack, neuron) if strips is None else strips,
        neighbours=[
            (other, model.icon(other), html.neuron_title(model.pack.neurons[other]), f"{cosine:.2f}")
            for other, cosine in model.neighbours(neuron)
        ],
    )


def _names(row: Any) -> list[tuple[str, str, str]]:
    """Returns the names that fit best, each with its share of the best score, and its score."""
    top = max(float(row.scores[0]), 1e-9) if len(row.names) else 1.0
    return [(name, f"{max(0.0, score / top):.3f}", f"{score:.2f}") for name, score in zip(row.names, row.scores)]


def _histogram(row: Any, parts: str) -> dict[str, Any] | None:
    """Returns the bars of a neuron's activations on "patches" or "tokens"; None if it never fired."""
    counts = np.asarray(row.histogram, dtype=float)
    if not len(counts):
        return None
    width, height = 100 / len(counts), 40.0
    # Square roots: the rare strong activations are what one looks for, and would not be seen beside the many weak ones.
    heights = height * np.sqrt(counts / counts.max())
    return {
        "rects": [
            (f"{i * width:.2f}", f"{height - h:.2f}", f"{width * 0.9:.2f}", f"{h:.2f}") for i, h in enumerate(heights)
        ],
        "height": f"{height:g}",
        "p99_place": 100 * SHOWN_BINS_PER_OCTAVE * math.log2(row.p99 / row.histogram_low) / len(counts),
        "low": f"{row.histogram_low:.2g}",
        "p99": f"{row.p99:.3g}",
        "high": f"{row.histogram_low * 2 ** (len(counts) / SHOWN_BINS_PER_OCTAVE):.3g}",
        "text": f"{counts.sum():,.0f} {parts} on which it fires, from {row.histogram_low:.2g} to {row.max:.3g}; half "
        f"are below {row.p50:.2g}, 99 % below {row.p99:.3g}",
    }


def _steerability(row: Any) -> list[tuple[str, str, str, str, str]]:
    """Returns LLaVA's answers when the scores were measured, beside those of their controls."""
    rows = []
    for where, kind in (("alone", "unit"), ("on a white picture", "white")):
        answer, score, control, chance = (
            getattr(row, name.format(kind), math.nan)
            for name in ("said_{}", "steer_text_{}", "said_{}_random", "steer_text_{}_random")
        )
        if not math.isnan(score):
            rows.append((where, str(answer), f"{score:.2f}", str(control), f"{chance:.2f}"))
    return rows


def _live(model: LoadedModel, neuron: int) -> Markup:
    """Returns what is there until LLaVA and unCLIP have answered: at once that they cannot, if neither is there."""
    reasons = _reasons(model)
    if len(reasons) < len(TITLES):
        return _TEMPLATE.waiting()
    stored = model.icon(neuron, "drawn")
    return _TEMPLATE.alone(neuron, f"{range_of(model, neuron).start:g}", None, None, stored, reasons)


def _reasons(model: LoadedModel) -> list[str]:
    """Returns why LLaVA and unCLIP cannot be steered, as far as this shows before they are loaded."""
    return [reason for name in TITLES if (reason := model.no_reader(name))]


def _number(model: LoadedModel, neuron: Any) -> int:
    """Returns the neuron that is shown: the best one until another was chosen."""
    return model.best_neuron if neuron in ("", None) else row_of(model, neuron).neuron


def number_label(model: LoadedModel) -> str:
    """Returns the label of the field of neurons' numbers, with its range."""
    return f"Neuron, 0 to {len(model.pack.neurons) - 1}"
