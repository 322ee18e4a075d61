"""The tab "Inspect image": a picture in, the neurons that fire on it out, and where."""

from typing import Any

import gradio as gr
import numpy as np

from cbsae_hub.studio import html
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.loaded import Inspected, Loaded
from cbsae_hub.studio.memory import Memory
from cbsae_hub.studio.picture_box import chosen_sample, sample_box, sample_strip, upload_box
from cbsae_hub.studio.pictures import ImageRefused, read_picture
from cbsae_hub.studio.style import script
from cbsae_hub.studio.visit import LOOKUP, PRIVATE, Visit, kindly

SAMPLES = 12
SHOWN_NEURONS = 15
KEPT = 64  # inspections of all visitors together; the oldest are forgotten


class InspectTab:
    """Upload or sample, strongest neurons, where one fires, what fires at a patch, and what the SAE loses.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit
        self.memory: Memory[Inspected] = Memory(KEPT)

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        first = self.visit.serving.first
        self.key = gr.State(None)
        self.grid = gr.HTML(_EMPTY, js_on_load=script("patches"), elem_id="grid", render=False)
        self.error = gr.HTML("", elem_id="error", render=False)
        self.neurons = gr.Radio([], label="Neurons", elem_id="neurons", render=False)
        self.card = self.visit.card("", "inspect-card", render=False)
        self.everything = [self.key, self.grid, self.error, self.neurons, self.card]
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.upload = upload_box("Your picture", "upload")
                self.samples = sample_box(first.pack, "samples", SAMPLES)
            with gr.Column(scale=5, min_width=280):
                self.grid.render()
                self.error.render()
            with gr.Column(scale=5, min_width=280):
                self.whole = gr.Button("Strongest neurons of the whole picture", size="sm", elem_id="whole")
                self.hide_dense = gr.Checkbox(
                    True, label="Hide neurons that fire nearly everywhere", elem_id="hide-dense"
                )
                self.neurons.render()
        self.card.render()
        visit, seen = self.visit, [self.visit.served, self.key]
        self.inspected = [
            self.upload.input(self.inspect, [visit.served, self.upload], [visit.picture, *self.everything], **PRIVATE),
            self.samples.click(self.sample, [visit.served], [visit.picture, *self.everything], **PRIVATE),
        ]
        self.neurons.input(self.where, [*seen, self.neurons], [self.grid, self.card], **LOOKUP)
        self.grid.click(self.at_patch, [*seen, self.hide_dense], [self.grid, self.neurons], **LOOKUP)
        gr.on(
            [self.whole.click, self.hide_dense.input], self.overview, [*seen, self.hide_dense],
            [self.grid, self.neurons, self.card], **LOOKUP,
        )  # fmt: skip

    @kindly
    def sample(self, event: gr.EventData, served: Any) -> list[Any]:
        """Inspects one of the sample pictures."""
        loaded = self.visit.serving.of(served)
        return self._inspected(loaded, chosen_sample(event, loaded.pack))

    @kindly
    def inspect(self, served: Any, path: Any) -> list[Any]:
        """Inspects an upload; what is no picture gets a sentence, and the page goes on."""
        loaded = self.visit.serving.of(served)
        if path is None:
            return [gr.skip(), None, _EMPTY, "", gr.Radio([], value=None), ""]
        return self._inspected(loaded, self.visit.serving.pictures.keep(read_picture(str(path))))

    @kindly
    def overview(self, served: Any, key: Any, hide_dense: Any) -> list[Any]:
        """The strongest neurons of the whole picture, the first of them chosen."""
        return self._overview(*self._recall(served, key), bool(hide_dense))

    @staticmethod
    def _overview(loaded: Loaded, seen: Inspected, hide_dense: bool, neuron: int | None = None) -> list[Any]:
        """The strongest neurons, and which of them is chosen: that one, if it is among them, else the first."""
        order = visible(loaded, seen, np.arange(len(seen.active)), hide_dense)
        if not len(order):
            return [_draw(loaded, seen, None), gr.Radio([], value=None, label="No neuron fires here"), ""]
        choices = [(_title(loaded, seen, i, seen.latents[:, i].mean(), "mean"), str(seen.active[i])) for i in order]
        chosen = next((i for i in order if seen.active[i] == neuron), order[0])
        value = str(seen.active[chosen])
        radio = gr.Radio(choices, value=value, label="Strongest neurons of the whole picture")
        return [_draw(loaded, seen, chosen), radio, html.neuron_card(loaded.pack, _row(loaded, seen, chosen))]

    @kindly
    def where(self, served: Any, key: Any, neuron: Any) -> list[Any]:
        """Where a neuron fires on the picture, and its card."""
        loaded, seen = self._recall(served, key)
        place = np.flatnonzero(seen.active == int(neuron)) if str(neuron).isdecimal() else []
        if not len(place):
            raise ImageRefused("This neuron does not fire on the picture.")
        return [_draw(loaded, seen, place[0]), html.neuron_card(loaded.pack, _row(loaded, seen, place[0]))]

    @kindly
    def at_patch(self, event: gr.EventData, served: Any, key: Any, hide_dense: Any) -> list[Any]:
        """The neurons that fire at one patch."""
        loaded, seen = self._recall(served, key)
        patch = getattr(event, "patch", None)
        if not isinstance(patch, int) or not 0 <= patch < len(seen.latents):
            raise ImageRefused("There is no such patch.")
        strengths = seen.latents[patch]
        order = np.argsort(-strengths, kind="stable")
        order = visible(loaded, seen, order[strengths[order] > 0], bool(hide_dense))
        columns = _grid_shape(loaded, seen)[1]
        label = f"Neurons at patch row {patch // columns + 1}, column {patch % columns + 1}"
        choices = [(_title(loaded, seen, i, strengths[i], "here"), str(seen.active[i])) for i in order]
        picture = _draw(loaded, seen, order[0] if len(order) else None, patch)
        return [picture, gr.Radio(choices, value=None, label=label if choices else f"{label}: none fires")]

    def restore(self, loaded: Loaded, link: Link) -> list[Any]:
        """What a link asks for: a picture of the pack, inspected, with a neuron of those that are listed."""
        samples = sample_strip(loaded.pack, SAMPLES)
        if link.tab != "inspect" or link.picture is None:
            return [samples, None, _EMPTY, "", gr.Radio([], value=None, label="Neurons"), ""]
        return [samples, *self._inspected(loaded, link.picture, link.neuron)[1:]]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.samples, *self.everything]

    def _recall(self, served: Any, key: Any) -> tuple[Loaded, Inspected]:
        seen = self.memory.get(key)
        if seen is None:
            raise ImageRefused("This picture is no longer in memory. Please load it again.")
        return self.visit.serving.of(served), seen

    def _inspected(self, loaded: Loaded, picture: str, neuron: int | None = None) -> list[Any]:
        seen = loaded.inspect(self.visit.serving.pictures.get(picture, loaded.pack))
        key = self.memory.put(seen)
        grid, neurons, card = self._overview(loaded, seen, True, neuron)
        worst = int(seen.token_error.argmax())
        columns = _grid_shape(loaded, seen)[1]
        error = html.facts(
            [
                ("The SAE keeps", f"{seen.explained:.1%}", "of the activations' squared distance from its centre"),
                ("Cosine", f"{seen.cosine:.3f}", "of activations and reconstruction, mean over patches"),
                ("Neurons firing", f"{len(seen.active)}", "anywhere on the picture"),
                (
                    "Most is lost at",
                    f"row {worst // columns + 1}, column {worst % columns + 1} ({seen.token_error[worst]:.0%})",
                    "the patch whose activation is reconstructed worst",
                ),
            ]
        )
        return [picture, key, grid, error, neurons, card]


def visible(loaded: Loaded, seen: Inspected, order: np.ndarray, hide_dense: bool) -> np.ndarray:
    """Places in ``order``, without those of dense neurons; concept neurons grade every patch: dense says nothing."""
    kept = [
        i for i in order
        if not hide_dense or (row := _row(loaded, seen, i)).kind == "cb" or row.status != "dense"
    ]  # fmt: skip
    return np.array(kept[:SHOWN_NEURONS], dtype=int)


def _row(loaded: Loaded, seen: Inspected, place: int) -> Any:
    return loaded.pack.neurons[int(seen.active[place])]


def _title(loaded: Loaded, seen: Inspected, place: int, strength: float, what: str) -> str:
    row = _row(loaded, seen, place)
    times = f", peak {seen.latents[:, place].max() / row.p99:.1f} x p99" if row.p99 > 0 else ""
    return f"{html.neuron_title(row)}: {strength:.2f} {what}{times}"


def _grid_shape(loaded: Loaded, seen: Inspected) -> tuple[int, int]:
    return loaded.pack.grid or (1, len(seen.latents))


def _draw(loaded: Loaded, seen: Inspected, place: int | None, patch: int | None = None) -> str:
    shape = _grid_shape(loaded, seen)
    if place is None:
        return html.patch_grid(seen.shown, np.zeros(shape), "Nothing to show.", patch)
    strength = seen.latents[:, place]
    row = _row(loaded, seen, place)
    caption = f"Where {html.neuron_title(row)} fires: {int((strength > 0).sum())} of {len(strength)} patches."
    return html.patch_grid(seen.shown, (strength / max(strength.max(), 1e-12)).reshape(shape), caption, patch)


_EMPTY = '<p class="cb-empty">Upload a picture, paste one, or take a sample.</p>'
