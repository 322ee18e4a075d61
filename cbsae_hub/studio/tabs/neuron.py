"""The tab "Neuron": everything that is known of one neuron, and what it alone makes LLaVA say and unCLIP draw."""

import math
import random
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np

from cbsae_hub.metrics.activity import SHOWN_BINS_PER_OCTAVE
from cbsae_hub.studio.basket import span_of
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import LOOKUP, Visit, beat, kindly, row_of, state
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import attribute, escape
from cbsae_hub.studio.view.pictures import as_webp, data_uri


class NeuronTab:
    """One neuron after the other, by number, by name from other tabs, or at random.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        first = self.visit.serving.first
        best = _best(first)
        with gr.Row(elem_id="neuron-bar"):
            self.number = gr.Number(
                best, label=number_label(first), precision=0, minimum=0, elem_id="neuron-number", min_width=170, scale=0
            )
            self.shown = state("", "neuron")
            small = {"scale": 0, "size": "md", "min_width": 100}
            self.previous = gr.Button("Previous", elem_id="neuron-previous", **small)
            self.next = gr.Button("Next", elem_id="neuron-next", **small)
            self.random = gr.Button("Random", elem_id="neuron-random", **small)
        with gr.Row(equal_height=False):
            with gr.Column(scale=9, min_width=280):
                self.page = self.visit.card(self._page(first, best), "neuron-page")
            with gr.Column(scale=3, min_width=240):
                self.live = gr.HTML(_WAITING, elem_id="neuron-live")
        served, shown = self.visit.served, [*self.outputs, self.visit.pulse]
        self.number.submit(self.turn, [served, self.number], shown, **LOOKUP)
        for button, step in ((self.previous, -1), (self.next, 1), (self.random, 0)):
            button.click(self._mover(step), [served, self.shown], shown, **LOOKUP)

    @kindly
    def show(self, served: Any, neuron: Any) -> list[Any]:
        """Shows a neuron."""
        loaded = self.visit.loaded(served)
        number = row_of(loaded, neuron).neuron
        return [number, str(number), self._page(loaded, number), _WAITING]

    @kindly
    def turn(self, served: Any, neuron: Any) -> list[Any]:
        """Shows another neuron, and has it speak and draw."""
        return [*self.show(served, neuron), beat("neuron")]

    @kindly
    def alone(self, served: Any, neuron: Any) -> str:
        """What the neuron alone makes LLaVA say and unCLIP draw."""
        loaded = self.visit.loaded(served)
        number = _number(loaded, neuron)
        said, drawn = self.visit.serving.experiments.neuron_alone(loaded, number)
        value = f"{span_of(loaded, number).start:g}"
        parts = []
        if said is not None:
            chance = "" if said.probability is None else f" Its own name has a probability of {said.probability:.1%}."
            parts.append(f"<p>LLaVA, asked for one word: <strong>“{escape(said.answer)}”</strong>.{chance}</p>")
        if drawn is not None:
            source = data_uri(as_webp(drawn.picture))
            parts.append(
                f'<figure class="cb-icon"><img src="{source}" alt="what unCLIP draws of neuron {number} alone">'
                "<figcaption>drawn by unCLIP</figcaption></figure>"
            )
        told = "".join(parts) or "<p>LLaVA and unCLIP are not here: see Steer LLaVA for how to have them.</p>"
        return (
            f'<section class="cb-live" aria-live="polite"><h3>This neuron alone, set to {value}, nothing else active'
            f"</h3><div>{told}</div></section>"
        )

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for."""
        number = _best(loaded) if link.neuron is None else link.neuron
        shown = "" if link.neuron is None else str(number)
        return [gr.Number(number, label=number_label(loaded)), shown, self._page(loaded, number), _WAITING]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` and :meth:`show` set."""
        return [self.number, self.shown, self.page, self.live]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"neuron": self.shown}

    def _page(self, loaded: Loaded, neuron: int) -> str:
        return neuron_page(loaded, neuron, self.visit.serving.pruned_from(loaded, neuron))

    def _mover(self, step: int) -> Any:
        @kindly
        def move(served: Any, neuron: Any) -> list[Any]:
            loaded = self.visit.loaded(served)
            if step:
                return self.turn(served, (_number(loaded, neuron) + step) % len(loaded.pack.neurons))
            frame = loaded.pack.neurons.frame
            return self.turn(served, int(random.choice(frame.loc[frame["status"] != "dead", "neuron"].tolist())))

        return move


def neuron_page(loaded: Loaded, neuron: int, pruned_from: Sequence[str] = ()) -> str:
    """What the pack knows of a neuron, as HTML.

    Args:
        loaded: The model.
        neuron: Which.
        pruned_from: Models that were made of this one, without the neuron.
    """
    pack, row = loaded.pack, loaded.pack.neurons[neuron]
    pruned = "".join(
        f'<p class="cb-note">This neuron was pruned: {escape(name)} does not have it.</p>' for name in pruned_from
    )
    return (
        '<article class="cb-neuron">'
        f"{html.neuron_head(pack, row)}{pruned}{_origin(loaded, row)}{_names(row)}"
        f"<h4>How strongly it fires</h4>{_histogram(row)}"
        f"{_steerability(loaded, row)}{html.strips(pack, neuron)}{_neighbours(loaded, neuron)}</article>"
    )


def _origin(loaded: Loaded, row: Any) -> str:
    """Which neuron of the parent a retained one is."""
    ids = getattr(loaded.sae, "sae_neuron_ids", None)
    if not ids or row.kind == "cb":
        return ""
    return f'<p class="cb-also">Neuron {ids[row.neuron]} of the SAE that this model was made of.</p>'


def _names(row: Any) -> str:
    """The names that fit best, as bars."""
    if not len(row.names):
        return ""
    top = max(float(row.scores[0]), 1e-9)
    bars = "".join(
        f'<li><span>{escape(name)}</span><meter min="0" max="1" value="{max(0.0, score / top):.3f}" '
        f'aria-label="{attribute(name)}"></meter><span>{score:.2f}</span></li>'
        for name, score in zip(row.names, row.scores)
    )
    return f'<h4>Names that fit</h4><ol class="cb-names">{bars}</ol>'


def _histogram(row: Any) -> str:
    """Activations of patches on a logarithmic scale, with the 99th percentile."""
    counts = np.asarray(row.histogram, dtype=float)
    if not len(counts):
        return "<p>It never fired.</p>"
    width, height = 100 / len(counts), 40.0
    # Square roots: the rare strong activations are what one looks for, and would not be seen beside the many weak ones.
    heights = height * np.sqrt(counts / counts.max())
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{height - h:.2f}" width="{width * 0.9:.2f}" height="{h:.2f}"/>'
        for i, h in enumerate(heights)
    )
    place = 100 * SHOWN_BINS_PER_OCTAVE * math.log2(row.p99 / row.histogram_low) / len(counts)
    high = row.histogram_low * 2 ** (len(counts) / SHOWN_BINS_PER_OCTAVE)
    text = (
        f"{counts.sum():,.0f} patches on which it fires, from {row.histogram_low:.2g} to {row.max:.3g}; half are below "
        f"{row.p50:.2g}, 99 % below {row.p99:.3g}"
    )
    return (
        f'<figure class="cb-histogram"><svg viewBox="0 0 100 {height:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{attribute(text)}">{bars}<line x1="{place:.2f}" x2="{place:.2f}" y1="0" y2="{height:g}"/></svg>'
        f'<div class="cb-axis"><span>{row.histogram_low:.2g}</span>'
        f'<span class="cb-p99" style="left:{place:.1f}%">p99 {row.p99:.3g}</span><span>{high:.3g}</span></div>'
        f"<figcaption>{escape(text)}. Doubling to the right; heights are square roots.</figcaption></figure>"
    )


def _steerability(loaded: Loaded, row: Any) -> str:
    """What LLaVA said when the scores were measured, beside its control."""
    told = [
        (where, getattr(row, f"said_{kind}", None), getattr(row, f"steer_text_{kind}", math.nan),
         getattr(row, f"said_{kind}_random", None), getattr(row, f"steer_text_{kind}_random", math.nan))
        for where, kind in (("alone", "unit"), ("on a white picture", "white"))
    ]  # fmt: skip
    rows = "".join(
        f"<tr><th>{where}</th><td>“{escape(str(said))}”</td><td>{score:.2f}</td>"
        f"<td>“{escape(str(control))}”</td><td>{chance:.2f}</td></tr>"
        for where, said, score, control, chance in told
        if not math.isnan(score)
    )
    if not rows:
        return ""
    head = html.heads(["", "word", "nearness to the name", "random direction", "nearness"])
    return f"<h4>What LLaVA said when it was set to {loaded.alpha:g}</h4>" + html.scrolled(
        f'<table class="cb-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _neighbours(loaded: Loaded, neuron: int) -> str:
    """Neurons that push the same way, as buttons."""
    buttons = "".join(
        f'<button type="button" class="cb-pill" data-act="open" data-neuron="{other}">'
        f"{escape(html.neuron_title(loaded.pack.neurons[other]))} <small>cosine {cosine:.2f}</small></button>"
        for other, cosine in loaded.neighbours(neuron)
    )
    return f'<h4>Neurons that push nearly the same way</h4><div class="cb-pills">{buttons}</div>'


def _number(loaded: Loaded, shown: Any) -> int:
    """The neuron that is shown: the best one until another was chosen."""
    return _best(loaded) if shown in ("", None) else row_of(loaded, shown).neuron


def _best(loaded: Loaded) -> int:
    frame = loaded.pack.neurons.frame
    return int(frame.loc[frame["score"].idxmax(), "neuron"])


def number_label(loaded: Loaded) -> str:
    """What the field of neurons' numbers is called: it says how far they go."""
    return f"Neuron, 0 to {len(loaded.pack.neurons) - 1}"


_WAITING = (
    '<section class="cb-live"><h3>This neuron alone</h3><p class="cb-busy"><span class="cb-spin" aria-hidden="true">'
    "</span> LLaVA and unCLIP are asked ...</p></section>"
)
