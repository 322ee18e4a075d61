"""The tab "Inspect image": a picture in, the neurons that fire on it out, and where."""

import secrets
from collections import OrderedDict
from html import escape
from threading import Lock
from typing import Any

import gradio as gr
import numpy as np

from cbsae_hub.studio import html
from cbsae_hub.studio.loaded import ImageRefused, Inspection, Loaded, read_picture
from cbsae_hub.studio.style import PATCH_KEYS

SHOWN_NEURONS = 15
KEPT = 64  # inspections of all visitors together; the oldest are forgotten
SAMPLES = 12


class Memory:
    """The last inspections by an unguessable key, so that the page's state holds no arrays and nobody sees others'."""

    def __init__(self, size: int = KEPT):
        self._items: OrderedDict[str, Inspection] = OrderedDict()
        self._size, self._lock = size, Lock()

    def put(self, item: Inspection) -> str:
        """Keeps an inspection and returns its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._items[key] = item
            while len(self._items) > self._size:
                self._items.popitem(last=False)
        return key

    def get(self, key: Any) -> Inspection:
        """The inspection of a key.

        Raises:
            gr.Error: If it is unknown or forgotten.
        """
        with self._lock:
            if not isinstance(key, str) or key not in self._items:
                raise gr.Error("This picture is no longer in memory. Please load it again.", print_exception=False)
            self._items.move_to_end(key)
            return self._items[key]


def _path_of(payload: Any) -> str | None:
    """The path of an uploaded file, which Gradio has checked to be one that was uploaded."""
    return None if payload is None else payload.path


class InspectTab:
    """Upload or sample, strongest neurons, where one fires, what fires at a patch, and what the SAE loses.

    Args:
        loaded: The model to serve.
    """

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.memory = Memory()
        pack = loaded.pack
        ids = pack.image_ids()
        self.samples = [ids[i] for i in np.linspace(0, len(ids) - 1, min(SAMPLES, len(ids))).astype(int)]
        frame = pack.neurons.frame
        # Concept neurons grade every patch: that they are dense says nothing against them.
        self._dense = set(frame.loc[(frame["status"] == "dense") & (frame["kind"] == "sae"), "neuron"])

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        self.key = gr.State(None)
        self.grid = gr.HTML(_EMPTY, js_on_load=PATCH_KEYS, elem_id="grid", render=False)
        self.error = gr.HTML("", elem_id="error", render=False)
        self.neurons = gr.Radio([], label="Neurons", elem_id="neurons", render=False)
        self.card = gr.HTML("", elem_id="inspect-card", render=False)
        everything = [self.key, self.grid, self.error, self.neurons, self.card]
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.upload = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Your picture", height=220, elem_id="upload"
                )
                # Handed on unopened: Gradio would fail without a word on what is no picture. A subclass would be the
                # plainer way, but Gradio writes a stub file beside the source of each.
                self.upload.preprocess = _path_of
                samples = gr.HTML(self._sample_buttons(), elem_id="samples", js_on_load=_SAMPLE_CLICK)
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
        settings = {"api_visibility": "private", "show_progress": "hidden"}
        self.upload.input(self.inspect, [self.upload], everything, **settings)
        samples.click(self.sample, None, everything, **settings)
        self.neurons.input(self.where, [self.key, self.neurons], [self.grid, self.card], queue=False, **settings)
        self.grid.click(self.at_patch, [self.key, self.hide_dense], [self.grid, self.neurons], queue=False, **settings)
        gr.on(
            [self.whole.click, self.hide_dense.input], self.overview, [self.key, self.hide_dense],
            [self.grid, self.neurons, self.card], queue=False, **settings,
        )  # fmt: skip

    def sample(self, event: gr.EventData) -> list[Any]:
        """Inspects one of the sample pictures."""
        place = getattr(event, "sample", None)
        if not isinstance(place, int) or not 0 <= place < len(self.samples):
            raise gr.Error("There is no such sample.", print_exception=False)
        return self._inspected(self.loaded.inspect(self.loaded.pack.image(self.samples[place])))

    def inspect(self, path: Any) -> list[Any]:
        """Inspects an upload; what is no picture gets a sentence, and the page goes on."""
        if path is None:
            return [None, _EMPTY, "", gr.Radio([], value=None), ""]
        try:
            picture = read_picture(str(path))
        except ImageRefused as refusal:
            raise gr.Error(str(refusal), title="Not this one", duration=10, print_exception=False) from refusal
        return self._inspected(self.loaded.inspect(picture))

    def overview(self, key: Any, hide_dense: Any) -> list[Any]:
        """The strongest neurons of the whole picture, the first of them chosen."""
        seen = self.memory.get(key)
        order = self._visible(seen, np.arange(len(seen.active)), bool(hide_dense))
        if not len(order):
            return [self._draw(seen, None), gr.Radio([], value=None, label="No neuron fires here"), ""]
        choices = [(self._title(seen, i, seen.latents[:, i].mean(), "mean"), str(seen.active[i])) for i in order]
        radio = gr.Radio(choices, value=choices[0][1], label="Strongest neurons of the whole picture")
        return [self._draw(seen, order[0]), radio, html.neuron_card(self.loaded.pack, self._row(seen, order[0]))]

    def where(self, key: Any, neuron: Any) -> list[Any]:
        """Where a neuron fires on the picture, and its card."""
        seen = self.memory.get(key)
        place = np.flatnonzero(seen.active == int(neuron)) if str(neuron).isdecimal() else []
        if not len(place):
            raise gr.Error("This neuron does not fire on the picture.", print_exception=False)
        return [self._draw(seen, place[0]), html.neuron_card(self.loaded.pack, self._row(seen, place[0]))]

    def at_patch(self, event: gr.EventData, key: Any, hide_dense: Any) -> list[Any]:
        """The neurons that fire at one patch."""
        seen, patch = self.memory.get(key), getattr(event, "patch", None)
        if not isinstance(patch, int) or not 0 <= patch < len(seen.latents):
            raise gr.Error("There is no such patch.", print_exception=False)
        strengths = seen.latents[patch]
        order = np.argsort(-strengths, kind="stable")
        order = self._visible(seen, order[strengths[order] > 0], bool(hide_dense))
        columns = self._grid_shape(seen)[1]
        label = f"Neurons at patch row {patch // columns + 1}, column {patch % columns + 1}"
        choices = [(self._title(seen, i, strengths[i], "here"), str(seen.active[i])) for i in order]
        picture = self._draw(seen, order[0] if len(order) else None, patch)
        return [picture, gr.Radio(choices, value=None, label=label if choices else f"{label}: none fires")]

    def _inspected(self, seen: Inspection) -> list[Any]:
        key = self.memory.put(seen)
        grid, neurons, card = self.overview(key, True)
        worst = int(seen.token_error.argmax())
        columns = self._grid_shape(seen)[1]
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
        return [key, grid, error, neurons, card]

    def _visible(self, seen: Inspection, order: np.ndarray, hide_dense: bool) -> np.ndarray:
        kept = [i for i in order if not (hide_dense and seen.active[i] in self._dense)]
        return np.array(kept[:SHOWN_NEURONS], dtype=int)

    def _row(self, seen: Inspection, place: int) -> Any:
        return self.loaded.pack.neurons[int(seen.active[place])]

    def _title(self, seen: Inspection, place: int, strength: float, what: str) -> str:
        row = self._row(seen, place)
        times = f", peak {seen.latents[:, place].max() / row.p99:.1f} x p99" if row.p99 > 0 else ""
        return f"{html.neuron_title(row)}: {strength:.2f} {what}{times}"

    def _grid_shape(self, seen: Inspection) -> tuple[int, int]:
        return self.loaded.pack.grid or (1, len(seen.latents))

    def _draw(self, seen: Inspection, place: int | None, patch: int | None = None) -> str:
        shape = self._grid_shape(seen)
        if place is None:
            return html.patch_grid(seen.shown, np.zeros(shape), "Nothing to show.", patch)
        strength = seen.latents[:, place]
        row = self._row(seen, place)
        caption = f"Where {html.neuron_title(row)} fires: {int((strength > 0).sum())} of {len(strength)} patches."
        return html.patch_grid(seen.shown, (strength / max(strength.max(), 1e-12)).reshape(shape), caption, patch)

    def _sample_buttons(self) -> str:
        pack = self.loaded.pack
        buttons = "".join(
            f'<button type="button" class="cb-sample" data-sample="{i}">'
            f'<img src="{html.data_uri(pack.image_bytes(image))}" '
            f'alt="sample: {escape(str(pack.alt(image)), quote=True)}"></button>'
            for i, image in enumerate(self.samples)
        )
        return f'<h4>Or a sample</h4><div class="cb-strip">{buttons}</div>'


_EMPTY = '<p class="cb-empty">Upload a picture, paste one, or take a sample.</p>'
_SAMPLE_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('.cb-sample');
  if (button) trigger('click', { sample: Number(button.dataset.sample) });
});
"""
