"""Components by which a visitor brings an image: an upload box, samples of the pack, and both with a preview."""

import re
from typing import Any

import gradio as gr
import numpy as np
from markupsafe import Markup

from cbsae_hub.neurons.pack import Pack
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, PRIVATE, SessionState, pulse
from cbsae_hub.studio.view.html import PIECES
from cbsae_hub.studio.view.images import WHITE, as_webp, data_uri, is_sample
from cbsae_hub.studio.view.style import script

SAMPLES = 7
SAME_PICTURE = "Your file could not be opened. This is still the picture that is steered."


def upload_box(elem_id: str, height: int = 220) -> gr.Image:
    """Returns an image component whose file reaches the handler unopened."""
    box = gr.Image(
        type="filepath", sources=["upload", "clipboard"], label="Your picture", height=height, elem_id=elem_id,
        buttons=[],
    )  # fmt: skip
    # Gradio would fail without a word on what is no image. A subclass would be the plainer way, but Gradio writes a
    # stub file beside the source of each.
    box.preprocess = _path_of  # type: ignore[method-assign]
    return box


def bind_upload(
    box: gr.Image, handler: Any, inputs: list[Any], outputs: list[Any], failure: Any, inputs_then: list[Any],
    outputs_then: list[Any],
) -> Any:  # fmt: skip
    """Calls a handler with each upload; returns the event.

    Of what is refused, the box keeps nothing, and what ``failure`` returns takes the place of what was there before:
    nobody shall take that for the upload's.
    """
    event = box.input(handler, inputs, outputs, **PRIVATE)
    event.failure(None, None, box, js="() => null")
    event.failure(failure, inputs_then, outputs_then, **LOOKUP)
    return event


def sample_box(pack: Pack, elem_id: str, count: int, white: bool = False) -> gr.HTML:
    """Returns sample images as buttons; see :func:`sample_name`."""
    return gr.HTML(sample_strip(pack, count, white), elem_id=elem_id, js_on_load=script("acts"))


def sample_strip(pack: Pack, count: int, white: bool = False) -> Markup:
    """Returns images of the pack, from all over it, as buttons."""
    ids = pack.image_ids()
    spread = [ids[i] for i in np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    samples = [(f"s{image}", data_uri(pack.image_bytes(image)), pack.alt(image)) for image in spread]
    return PIECES.samples(samples, white)


def sample_name(event: gr.EventData, pack: Pack) -> str:
    """Returns the name of the sample that was clicked, or raises Refused."""
    name = str(getattr(event, "picture", ""))
    if name != WHITE and not is_sample(name, pack):
        raise Refused("There is no such sample.")
    return name


class ImageBox:
    """Chooses the image that is steered, which the steering tabs share, and shows it."""

    def __init__(self, session: SessionState, tab: str):
        self.session, self.tab = session, tab

    def render(self) -> None:
        """Adds the components to the page that is being built."""
        pack = self.session.serving.first.pack
        self.preview = gr.HTML(preview(self.session, pack, WHITE), elem_id=f"{self.tab}-preview")
        self.samples = sample_box(pack, f"{self.tab}-samples", SAMPLES, white=True)
        with gr.Accordion("Or your own", open=False):
            self.upload = upload_box(f"{self.tab}-upload", 160)

    def bind(self, previews: list[gr.HTML]) -> None:
        """Adds the events; all previews of the page show the same image."""
        session, outputs = self.session, [self.session.image, self.session.pulse, *previews]
        self._previews = len(previews)
        self.samples.click(self.choose_sample, [session.model], outputs, **LOOKUP)
        bind_upload(
            self.upload, self.choose_upload, [session.model, self.upload], [session.upload, *outputs],
            self.keep_image, [session.model, session.image], [self.preview],
        )  # fmt: skip

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link, see :meth:`Tab.restore`."""
        image = preview(self.session, model.pack, link.image)
        return [image, sample_strip(model.pack, SAMPLES, white=True) if new else gr.skip()]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.preview, self.samples]

    @kindly
    def choose_sample(self, event: gr.EventData, key: Any) -> list[Any]:
        pack = self.session.model_of(key).pack
        return self._chosen(pack, sample_name(event, pack))

    @kindly
    def choose_upload(self, key: Any, path: Any) -> list[Any]:
        if path is None:
            return [gr.skip()] * (self._previews + 3)
        pack = self.session.model_of(key).pack
        name, record = self.session.keep_upload(path, pack)
        return [record, *self._chosen(pack, name)]

    @kindly
    def keep_image(self, key: Any, image: Any) -> str:
        """Shows the image that is still the one that is steered, after an upload was refused."""
        return preview(self.session, self.session.model_of(key).pack, image, SAME_PICTURE)

    def _chosen(self, pack: Pack, name: str) -> list[Any]:
        return [name, pulse(self.tab), *[preview(self.session, pack, name)] * self._previews]


def preview(session: SessionState, pack: Pack, name: Any, note: str = "") -> Markup:
    """Returns the image that is steered, small, with a note."""
    name = str(name or WHITE)
    small = session.serving.images.get(name, pack).copy()
    small.thumbnail((256, 256))
    alt = "a white picture" if name == WHITE else "your picture"
    if re.fullmatch(r"s\d+", name):
        alt = pack.alt(int(name[1:]))
    return PIECES.preview(data_uri(as_webp(small)), alt, note)


def _path_of(payload: Any) -> str | None:
    """Returns the path of an uploaded file, which Gradio has checked to be one that was uploaded."""
    return None if payload is None else payload.path
