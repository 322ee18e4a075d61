"""The tab "Inspect image": a picture in, the neurons that fire on it out, and where."""

from typing import Any

import gradio as gr
import numpy as np

from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.loaded import Inspected, Loaded
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.visit import LOOKUP, PRIVATE, Visit, keepsake, kindly, state, unremembered
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.picture_box import bind_upload, chosen_sample, sample_box, sample_strip, upload_box
from cbsae_hub.studio.view.pictures import ImageRefused, read_picture
from cbsae_hub.studio.view.style import script

SAMPLES = 12
SHOWN_NEURONS = 15
KEPT = 64  # inspections, of all visitors together; who comes back to an older one waits for it again


class InspectTab:
    """Upload or sample, strongest neurons, where one fires, what fires at a patch, and what the SAE loses.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit
        self.inspections: Results[Inspected] = Results(KEPT)

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        first = self.visit.serving.first
        self.seen, self.patch = state("", "seen"), state("", "patch")
        self.grid = gr.HTML(_EMPTY, js_on_load=script("patches"), elem_id="grid", render=False)
        self.error = gr.HTML("", elem_id="error", render=False)
        self.neurons = unremembered(gr.Radio([], label="Neurons", elem_id="neurons", render=False))
        self.card = self.visit.card("", "inspect-card", render=False)
        view = [self.seen, self.patch, self.grid, self.error, self.neurons, self.card]
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
        visit, seen = self.visit, [self.visit.served, self.seen, self.hide_dense]
        chosen = [visit.picture, *view]
        self.inspected = [
            bind_upload(self.upload, self.inspect, [visit.served, self.upload, self.hide_dense], [visit.kept, *chosen]),
            self.samples.click(self.sample, [visit.served, self.hide_dense], chosen, **PRIVATE),
        ]
        self.neurons.input(self.where, [*seen, self.patch, self.neurons], view, **LOOKUP)
        self.grid.click(self.at_patch, seen, view, **LOOKUP)
        self.whole.click(self.overview, seen, view, **LOOKUP)
        self.hide_dense.input(self.overview, [*seen, self.patch], view, **LOOKUP)
        self.outputs = [self.samples, self.hide_dense, *view]

    @kindly
    def sample(self, event: gr.EventData, served: Any, hide_dense: Any) -> list[Any]:
        """Inspects one of the sample pictures."""
        loaded = self.visit.loaded(served)
        name = chosen_sample(event, loaded.pack)
        return [name, *self._view(loaded, name, hide_dense)]

    @kindly
    def inspect(self, served: Any, path: Any, hide_dense: Any = True) -> list[Any]:
        """Inspects an upload; what is no picture gets a sentence, and the page goes on."""
        loaded = self.visit.loaded(served)
        if path is None:
            return [gr.skip()] * 8
        picture = read_picture(str(path))
        name = self.visit.serving.pictures.keep(picture)
        return [keepsake(name, self.visit.serving.pictures.get(name, loaded.pack)), name,
                *self._view(loaded, name, hide_dense)]  # fmt: skip

    @kindly
    def overview(self, served: Any, seen: Any, hide_dense: Any, patch: Any = None) -> list[Any]:
        """The strongest neurons of the whole picture, or of a patch, the first of them chosen."""
        return self._view(self.visit.loaded(served), seen, hide_dense, patch)

    @kindly
    def where(self, served: Any, seen: Any, hide_dense: Any, patch: Any, neuron: Any) -> list[Any]:
        """Where a neuron fires on the picture, and its card."""
        return self._view(self.visit.loaded(served), seen, hide_dense, patch, neuron)

    @kindly
    def at_patch(self, event: gr.EventData, served: Any, seen: Any, hide_dense: Any) -> list[Any]:
        """The neurons that fire at one patch."""
        return self._view(self.visit.loaded(served), seen, hide_dense, getattr(event, "patch", None))

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for: a picture, inspected."""
        samples = sample_strip(loaded.pack, SAMPLES) if new else gr.skip()
        if link.seen is None:
            return [samples, link.dense, "", "", _EMPTY, "", gr.Radio([], value=None, label="Neurons"), ""]
        return [samples, link.dense, *self._view(loaded, link.seen, link.dense, link.patch, link.fires)]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"seen": self.seen, "patch": self.patch, "fires": self.neurons, "dense": self.hide_dense}

    def _view(
        self, loaded: Loaded, picture: Any, hide_dense: Any, patch: Any = None, neuron: Any = None
    ) -> list[Any]:  # fmt: skip
        """All that the tab shows of a picture: what fires, on all of it or at a patch, and where one neuron does."""
        seen = self._inspected(loaded, picture)
        at = _patch_of(patch, seen)
        order = _order(seen, at)
        shown = visible(loaded, seen, order, bool(hide_dense))
        place = shown[0] if len(shown) else None
        if neuron not in (None, ""):
            places = np.flatnonzero(seen.active == int(neuron)) if str(neuron).isdecimal() else []
            if not len(places):
                raise ImageRefused("This neuron does not fire on the picture.")
            place = places[0]
        strengths, what = (seen.latents.mean(0), "mean") if at is None else (seen.latents[seen.before + at], "here")
        choices = [(_title(loaded, seen, i, strengths[i], what), str(seen.active[i])) for i in shown]
        value = None if place is None else str(seen.active[place])
        radio = gr.Radio(choices, value=value, label=_label(seen, at, bool(choices)))
        card = "" if place is None else html.neuron_card(loaded.pack, _row(loaded, seen, place))
        made = {"m": loaded.key, "seen": str(picture)}
        drawn = html.belonging(_draw(loaded, seen, place, at), made, "whole")
        return [str(picture), "" if at is None else str(at), drawn, _lost(seen), radio, card]

    def _inspected(self, loaded: Loaded, picture: Any) -> Inspected:
        if picture in ("", None):
            raise ImageRefused("Choose a picture first.")
        shown = self.visit.serving.pictures.get(picture, loaded.pack)
        return self.inspections.of((loaded.key, str(picture)), lambda: loaded.inspect(shown))


def _patch_of(patch: Any, seen: Inspected) -> int | None:
    """A patch of the picture; None for all of it."""
    if patch in ("", None):
        return None
    number = int(patch) if str(patch).isdecimal() else -1
    if not 0 <= number < len(seen.latents) - seen.before:
        raise ImageRefused("There is no such patch.")
    return number


def _order(seen: Inspected, patch: int | None) -> np.ndarray:
    """Places of the neurons that fire, strongest first."""
    if patch is None:
        return np.arange(len(seen.active))
    strengths = seen.latents[seen.before + patch]
    order = np.argsort(-strengths, kind="stable")
    return order[strengths[order] > 0]


def _label(seen: Inspected, patch: int | None, any_fires: bool) -> str:
    if patch is None:
        return "Strongest neurons of the whole picture" if any_fires else "No neuron fires here"
    columns = seen.grid[1]
    label = f"Neurons at patch row {patch // columns + 1}, column {patch % columns + 1}"
    return label if any_fires else f"{label}: none fires"


def _lost(seen: Inspected) -> str:
    """What the SAE keeps of the picture, and where it loses most."""
    lost = seen.token_error[seen.before :]
    worst, columns = int(lost.argmax()), seen.grid[1]
    return html.facts(
        [
            ("The SAE keeps", f"{seen.explained:.1%}", "of the activations' squared distance from its centre"),
            ("Cosine", f"{seen.cosine:.3f}", "of activations and reconstruction, mean over tokens"),
            ("Neurons firing", f"{len(seen.active)}", "anywhere on the picture"),
            (
                "Most is lost at",
                f"row {worst // columns + 1}, column {worst % columns + 1} ({lost[worst]:.0%})",
                "the patch whose activation is reconstructed worst",
            ),
        ]
    )


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


def _draw(loaded: Loaded, seen: Inspected, place: int | None, patch: int | None = None) -> str:
    if place is None:
        return html.patch_grid(seen.shown, np.zeros(seen.grid), "Nothing to show.", patch, seen.ratio)
    first, strength = np.split(seen.latents[:, place], [seen.before])
    row = _row(loaded, seen, place)
    others = f", and {int((first > 0).sum())} of {len(first)} tokens before them" if len(first) else ""
    caption = f"Where {html.neuron_title(row)} fires: {int((strength > 0).sum())} of {len(strength)} patches{others}."
    heat = (strength / max(strength.max(), 1e-12)).reshape(seen.grid)
    return html.patch_grid(seen.shown, heat, caption, patch, seen.ratio)


_EMPTY = '<p class="cb-empty">Upload a picture, paste one, or take a sample.</p>'
