"""The tab "Inspect image": an image in, the neurons that fire on it out, and where."""

from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup

from cbsae_hub.studio.basket import index_of
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.model import ImageInspection, LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, PRIVATE, SessionState, state, unremembered
from cbsae_hub.studio.tabs.maps import is_relevancy, map_titles, maps_choice
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.image_box import bind_upload, sample_box, sample_name, sample_strip, upload_box
from cbsae_hub.studio.view.images import data_uri, is_sample
from cbsae_hub.studio.view.style import script
from cbsae_hub.studio.view.templates import template

SAMPLES = 12
MAX_INSPECTIONS = 64  # inspections, of all visitors together; who comes back to an older one waits for it again
_TEMPLATE = template("inspect_image")
_EMPTY = html.PIECES.empty("Upload a picture, paste one, or take a sample.")
_REFUSED = html.PIECES.reason(
    "Your file could not be opened, so that there is nothing to show. Upload another, paste one, or take a sample."
)


class InspectTab(Tab):
    """Upload or sample, strongest neurons, where one fires, what fires at a patch, and what the SAE loses."""

    def __init__(self, session: SessionState):
        super().__init__(session)
        self.inspections: Results[ImageInspection] = Results(MAX_INSPECTIONS)
        self.relevancies: Results[str] = Results(MAX_INSPECTIONS)

    def render(self) -> None:
        self.image, self.patch = state("", "seen"), state("", "patch")
        self.grid = gr.HTML(_EMPTY, js_on_load=script("patches"), elem_id="grid", render=False)
        self.error = gr.HTML("", elem_id="error", render=False)
        self.neurons = unremembered(gr.Radio([], label="Neurons", elem_id="neurons", render=False))
        self.card = self.session.card("", "inspect-card", render=False)
        view = [self.image, self.patch, self.grid, self.error, self.neurons, self.card]
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=280):
                self.upload = upload_box("upload")
                self.samples = sample_box(self.session.serving.first.pack, "samples", SAMPLES)
            with gr.Column(scale=5, min_width=280):
                self.maps = maps_choice("inspect-maps")
                self.grid.render()
                self.error.render()
            with gr.Column(scale=5, min_width=280):
                self.whole = gr.Button("Strongest neurons of the whole picture", size="sm", elem_id="whole")
                self.hide_dense = gr.Checkbox(
                    True, label="Hide neurons that fire nearly everywhere", elem_id="hide-dense"
                )
                self.neurons.render()
        self.card.render()
        session, inputs = self.session, [self.session.model, self.image, self.hide_dense]
        outputs = [session.image, *view]
        self.events = [
            bind_upload(
                self.upload,
                self.inspect,
                [session.model, self.upload, self.hide_dense, self.maps],
                [session.upload, *outputs],
                lambda: _nothing(_REFUSED),
                [],
                view,
            ),
            self.samples.click(self.sample, [session.model, self.hide_dense, self.maps], outputs, **PRIVATE),
        ]
        of_neuron = [*inputs, self.patch, self.neurons, self.maps]
        self.neurons.input(self.where, of_neuron, view, **LOOKUP)
        self.maps.input(self.where, of_neuron, view, **LOOKUP)
        self.grid.click(self.at_patch, [*inputs, self.maps], view, **LOOKUP)
        self.whole.click(self.strongest, [*inputs, self.maps], view, **LOOKUP)
        self.hide_dense.input(self.strongest, [*inputs, self.maps, self.patch], view, **LOOKUP)
        self.outputs = [self.samples, self.hide_dense, self.maps, *view]
        self.parts = {
            "seen": self.image, "patch": self.patch, "fires": self.neurons, "dense": self.hide_dense,
            "seen.map": self.maps,
        }  # fmt: skip

    @kindly
    def sample(self, event: gr.EventData, key: Any, hide_dense: Any, maps: Any = None) -> list[Any]:
        """Inspects one of the sample images."""
        model = self.session.model_of(key)
        name = sample_name(event, model.pack)
        return [name, *self._view(model, name, hide_dense, maps=maps)]

    @kindly
    def inspect(self, key: Any, path: Any, hide_dense: Any = True, maps: Any = None) -> list[Any]:
        """Inspects an upload; what is no image gets a sentence, and the page goes on."""
        if path is None:
            return [gr.skip()] * 8
        model = self.session.model_of(key)
        name, record = self.session.keep_upload(path, model.pack)
        return [record, name, *self._view(model, name, hide_dense, maps=maps)]

    @kindly
    def where(
        self, key: Any, image: Any, hide_dense: Any, patch: Any = None, neuron: Any = None, maps: Any = None
    ) -> list[Any]:
        """Shows the strongest neurons of all of the image, or of a patch, and where the chosen or first one fires."""
        return self._view(self.session.model_of(key), image, hide_dense, patch, neuron, maps)

    @kindly
    def strongest(self, key: Any, image: Any, hide_dense: Any, maps: Any, patch: Any = None) -> list[Any]:
        """Shows the strongest neurons of all of the image, or of a patch, and where the first one fires."""
        return self._view(self.session.model_of(key), image, hide_dense, patch, maps=maps)

    @kindly
    def at_patch(self, event: gr.EventData, key: Any, image: Any, hide_dense: Any, maps: Any = None) -> list[Any]:
        """Shows the neurons that fire at one patch."""
        return self._view(self.session.model_of(key), image, hide_dense, getattr(event, "patch", None), maps=maps)

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link: an image, inspected."""
        samples = sample_strip(model.pack, SAMPLES) if new else gr.skip()
        maps = map_titles(link.inspected_maps or link.maps)
        if link.inspected_image is None:
            return [samples, link.hide_dense, maps, *_nothing(_EMPTY)]
        view = self._view(model, link.inspected_image, link.hide_dense, link.patch, link.firing_neuron, maps)
        return [samples, link.hide_dense, maps, *view]

    def _view(
        self, model: LoadedModel, image: Any, hide_dense: Any, patch: Any = None, neuron: Any = None, maps: Any = None
    ) -> list[Any]:
        """Returns values of the view: what fires, on all of the image or at a patch, and where one neuron does."""
        inspection = self._inspection(model, image)
        at = _patch_of(patch, inspection)
        places = model.listed(inspection, _order(inspection, at), bool(hide_dense))
        place = places[0] if len(places) else None
        if neuron not in (None, ""):
            fires = np.flatnonzero(inspection.active == index_of(neuron))
            if not len(fires):
                raise Refused("This neuron does not fire on the picture.")
            place = fires[0]
        strengths, what = inspection.strengths(at), "mean" if at is None else "here"
        choices = [(_title(model, inspection, i, strengths[i], what), str(inspection.active[i])) for i in places]
        value = None if place is None else str(inspection.active[place])
        info = html.about_marks(title for title, _ in choices)
        radio = gr.Radio(choices, value=value, label=_label(inspection, at, bool(choices)), info=info or "")
        card = "" if place is None else html.neuron_card(model.pack, model.row(inspection, place))
        if place is not None and is_relevancy(maps):
            drawn = _relevancy(model, inspection, place, at, self._layer(model, image, inspection, place))
        else:
            drawn = _grid(model, inspection, place, at)
        grid = html.result(drawn, {"m": model.key, "seen": str(image)}, "whole")
        listed = [int(inspection.active[i]) for i in places]
        icons = html.PIECES.list_icons("neurons", [(n, icon) for n in listed if (icon := model.icon(n))])
        return [str(image), "" if at is None else str(at), grid, _error(inspection) + icons, radio, card]

    def _inspection(self, model: LoadedModel, image: Any) -> ImageInspection:
        if image in ("", None):
            raise Refused("Choose a picture first.")
        pixels = self.session.serving.images.get(image, model.pack)
        of_pack = is_sample(str(image), model.pack)
        return self.inspections.of((model.key, str(image)), lambda: model.inspect(pixels, of_pack))

    def _layer(self, model: LoadedModel, image: Any, inspection: ImageInspection, place: int) -> str:
        """Returns the relevancy map of one of the neurons that fire, as a picture to lay over the image."""
        neuron = int(inspection.active[place])
        pixels, of_pack = self.session.serving.images.get(image, model.pack), is_sample(str(image), model.pack)

        def draw() -> str:
            return html.heat_layer(model.relevance(neuron, [pixels], of_pack)[0], *inspection.size)

        return self.relevancies.of((model.key, str(image), neuron), draw)


def _nothing(sentence: Markup) -> list[Any]:
    """Returns values of the view where there is no image."""
    return ["", "", sentence, "", gr.Radio([], value=None, label="Neurons"), ""]


def _patch_of(patch: Any, inspection: ImageInspection) -> int | None:
    """Returns a patch of the image; None for all of it."""
    if patch in ("", None):
        return None
    number = index_of(patch)
    if inspection.grid is None or not 0 <= number < len(inspection.latents) - inspection.before:
        raise Refused("There is no such patch.")
    return number


def _order(inspection: ImageInspection, patch: int | None) -> np.ndarray:
    """Returns places of the neurons that fire, strongest first."""
    if patch is None:
        return np.arange(len(inspection.active))
    strengths = inspection.strengths(patch)
    order = np.argsort(-strengths, kind="stable")
    return order[strengths[order] > 0]


def _label(inspection: ImageInspection, patch: int | None, any_fires: bool) -> str:
    if patch is None or inspection.grid is None:
        return "Strongest neurons of the whole picture" if any_fires else "No neuron fires here"
    columns = inspection.grid[1]
    label = f"Neurons at patch row {patch // columns + 1}, column {patch % columns + 1}"
    return label if any_fires else f"{label}: none fires"


def _error(inspection: ImageInspection) -> Markup:
    """Returns what the SAE keeps of the image, and where it loses most."""
    facts = [
        ("The SAE keeps", f"{inspection.explained:.1%}", "of the activations' squared distance from its centre"),
        ("Cosine", f"{inspection.cosine:.3f}", "of activations and reconstruction, mean over tokens"),
        ("Neurons firing", f"{len(inspection.active)}", "anywhere on the picture"),
    ]
    if inspection.grid is not None:
        lost = inspection.token_error[inspection.before :]
        worst, columns = int(lost.argmax()), inspection.grid[1]
        place = f"row {worst // columns + 1}, column {worst % columns + 1} ({lost[worst]:.0%})"
        facts.append(("Most is lost at", place, "the patch whose activation is reconstructed worst"))
    return html.PIECES.facts(facts)


def _title(model: LoadedModel, inspection: ImageInspection, place: int, strength: float, what: str) -> str:
    row = model.row(inspection, place)
    times = f", peak {inspection.latents[:, place].max() / row.p99:.1f} x p99" if row.p99 > 0 else ""
    return f"{html.neuron_title(row)}: {strength:.2f} {what}{times}"


def _relevancy(model: LoadedModel, inspection: ImageInspection, place: int, patch: int | None, layer: str) -> Markup:
    """Returns the image under a neuron's relevancy map; patches, if there are any, can be chosen all the same."""
    title = html.neuron_title(model.row(inspection, place))
    caption = f"What {title} owes its activation to: gradients times attention, through all blocks before it."
    none = None if inspection.grid is None else np.zeros(inspection.grid)
    return patch_grid(inspection.webp, none, caption, patch, inspection.ratio, layer)


def _grid(model: LoadedModel, inspection: ImageInspection, place: int | None, patch: int | None) -> Markup:
    def picture(heat: np.ndarray | None, caption: str) -> Markup:
        return patch_grid(inspection.webp, heat, caption, patch, inspection.ratio)

    if place is None:
        return picture(None if inspection.grid is None else np.zeros(inspection.grid), "Nothing to show.")
    title = html.neuron_title(model.row(inspection, place))
    if inspection.grid is None:
        return picture(
            None,
            f"{title} fires. This model reads no patches ({model.sae.tokens}): only the relevancy map says where from.",
        )
    first, strength = np.split(inspection.latents[:, place], [inspection.before])
    others = f", and {int((first > 0).sum())} of {len(first)} tokens before them" if len(first) else ""
    caption = f"Where {title} fires: {int((strength > 0).sum())} of {len(strength)} patches{others}."
    return picture((strength / max(strength.max(), 1e-12)).reshape(inspection.grid), caption)


def patch_grid(
    webp: bytes,
    heat: np.ndarray | None,
    caption: str,
    chosen: int | None = None,
    ratio: float = 1.0,
    layer: str | None = None,
) -> Markup:
    """Returns an image whose patches can be chosen by mouse and keys; ``heat``: 0..1 ``[rows, columns]``, or None.

    ``layer`` is the address of a picture that is laid over the image.
    """
    if heat is None:
        return _TEMPLATE.patch_grid(data_uri(webp), f"{ratio:.4g}", 1, 1, [], caption, layer)
    rows, columns = heat.shape
    focus = 0 if chosen is None else chosen
    cells = [
        {
            "tabindex": 0 if i == focus else -1,
            "pressed": "true" if i == chosen else "false",
            "colour": html.colour(float(value)),
            "row": i // columns + 1,
            "column": i % columns + 1,
            "strength": f"{value:.2f}",
        }
        for i, value in enumerate(heat.ravel())
    ]
    return _TEMPLATE.patch_grid(data_uri(webp), f"{ratio:.4g}", rows, columns, cells, caption, layer)
