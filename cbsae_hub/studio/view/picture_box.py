"""Components by which a visitor brings a picture: an upload box, samples of the pack, and both with a preview."""

import re
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from cbsae_hub.neurons.pack import Pack
from cbsae_hub.studio.links import Link
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import LOOKUP, PRIVATE, Visit, beat, keepsake, kindly
from cbsae_hub.studio.view.pictures import WHITE, ImageRefused, as_webp, data_uri, is_sample, read_picture
from cbsae_hub.studio.view.style import script

SAMPLES = 7


def upload_box(label: str, elem_id: str, height: int = 220) -> gr.Image:
    """An image component whose file reaches the handler unopened."""
    box = gr.Image(
        type="filepath", sources=["upload", "clipboard"], label=label, height=height, elem_id=elem_id, buttons=[]
    )
    # Gradio would fail without a word on what is no picture. A subclass would be the plainer way, but Gradio writes a
    # stub file beside the source of each.
    box.preprocess = _path_of
    return box


def bind_upload(box: gr.Image, handler: Any, inputs: list[Any], outputs: list[Any]) -> Any:
    """Calls a handler with what is uploaded; the box does not keep what it refuses.

    Returns:
        The event, for what is to follow it.
    """
    uploaded = box.input(handler, inputs, outputs, **PRIVATE)
    uploaded.failure(None, None, box, js="() => null")
    return uploaded


def sample_box(pack: Pack, elem_id: str, count: int, white: bool = False) -> gr.HTML:
    """Sample pictures as buttons; see :func:`chosen_sample`."""
    return gr.HTML(sample_strip(pack, count, white), elem_id=elem_id, js_on_load=script("acts"))


def sample_strip(pack: Pack, count: int, white: bool = False) -> str:
    """Pictures of the pack, from all over it, as buttons."""
    ids = pack.image_ids()
    chosen = [ids[i] for i in np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]
    blank = (
        f'<button type="button" class="cb-sample cb-white" data-act="sample" data-picture="{WHITE}">'
        "<span>white</span></button>"
    )
    buttons = "".join(
        f'<button type="button" class="cb-sample" data-act="sample" data-picture="s{image}">'
        f'<img src="{data_uri(pack.image_bytes(image))}" '
        f'alt="sample: {escape(str(pack.alt(image)), quote=True)}"></button>'
        for image in chosen
    )
    return f'<h3>Or a sample</h3><div class="cb-strip">{blank if white else ""}{buttons}</div>'


def chosen_sample(event: gr.EventData, pack: Pack) -> str:
    """The name of the sample that was clicked.

    Raises:
        ImageRefused: If there is no such sample.
    """
    name = str(getattr(event, "picture", ""))
    if name != WHITE and not is_sample(name, pack):
        raise ImageRefused("There is no such sample.")
    return name


class PictureBox:
    """Chooses the picture that is steered, which the steering tabs share, and shows it.

    Args:
        visit: What the tabs share.
        tab: Id of the tab that it is in.
    """

    def __init__(self, visit: Visit, tab: str):
        self.visit, self.tab = visit, tab

    def render(self) -> None:
        """Adds the components to the page that is being built."""
        pack = self.visit.serving.first.pack
        self.preview = gr.HTML(preview(self.visit, pack, WHITE), elem_id=f"{self.tab}-preview")
        self.samples = sample_box(pack, f"{self.tab}-samples", SAMPLES, white=True)
        with gr.Accordion("Or your own", open=False):
            self.upload = upload_box("Your picture", f"{self.tab}-upload", 160)

    def bind(self, previews: list[gr.HTML]) -> None:
        """Adds the events; all previews of the page show the same picture.

        Args:
            previews: Of all boxes of the page.
        """
        outputs = [self.visit.picture, self.visit.pulse, *previews]
        self.samples.click(self._sample(len(previews)), [self.visit.served], outputs, **LOOKUP)
        uploaded = [self.visit.kept, *outputs]
        bind_upload(self.upload, self._upload(len(previews)), [self.visit.served, self.upload], uploaded)

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for."""
        shown = preview(self.visit, loaded.pack, link.picture)
        return [shown, sample_strip(loaded.pack, SAMPLES, white=True) if new else gr.skip()]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.preview, self.samples]

    def _sample(self, count: int) -> Any:
        @kindly
        def choose_sample(event: gr.EventData, served: Any) -> list[Any]:
            pack = self.visit.loaded(served).pack
            name = chosen_sample(event, pack)
            return [name, beat(self.tab), *[preview(self.visit, pack, name)] * count]

        return choose_sample

    def _upload(self, count: int) -> Any:
        @kindly
        def choose_upload(served: Any, path: Any) -> list[Any]:
            if path is None:
                return [gr.skip()] * (count + 3)
            pack, pictures = self.visit.loaded(served).pack, self.visit.serving.pictures
            name = pictures.keep(read_picture(str(path)))
            kept = keepsake(name, pictures.get(name, pack))
            return [kept, name, beat(self.tab), *[preview(self.visit, pack, name)] * count]

        return choose_upload


def preview(visit: Visit, pack: Pack, name: Any) -> str:
    """The picture that is steered."""
    name = str(name or WHITE)
    picture = visit.serving.pictures.get(name, pack)
    alt = "a white picture" if name == WHITE else "your picture"
    if re.fullmatch(r"s\d+", name):
        alt = str(pack.alt(int(name[1:])))
    small = picture.copy()
    small.thumbnail((256, 256))
    return (
        f'<figure class="cb-preview"><img src="{data_uri(as_webp(small))}" alt="{escape(alt, quote=True)}">'
        f"<figcaption>{escape(alt)}</figcaption></figure>"
    )


def _path_of(payload: Any) -> str | None:
    """The path of an uploaded file, which Gradio has checked to be one that was uploaded."""
    return None if payload is None else payload.path
