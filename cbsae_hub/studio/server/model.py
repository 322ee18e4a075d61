"""A model with its pack, its encoder and the generators that it steers, loaded once and never changed."""

import copy
import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cbsae_hub.cards.facts import Facts
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.encoders.inspection import Inspection
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import ModelFileError, read_json
from cbsae_hub.hub.locate import download
from cbsae_hub.models import CBSAE
from cbsae_hub.models.base import CONTROLS_NAME, EVALUATION_NAME, WORKED_NAME
from cbsae_hub.neurons.chance import first_to_show, telling
from cbsae_hub.neurons.pack import FindResult, Pack
from cbsae_hub.pictures import white_image
from cbsae_hub.pipeline.answers import nonsense_beside
from cbsae_hub.steering import ClipZeroShotSteerer, LlavaSteerer, UnclipSteerer
from cbsae_hub.steering.latents import decoder_rows
from cbsae_hub.studio.server.generators import Generators, Unavailable, require_clip
from cbsae_hub.studio.server.names import public_id
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.view.images import MAX_SIDE, as_webp, data_uri

logger = logging.getLogger(__name__)

LISTED_NEURONS = 15


@dataclass(frozen=True)
class ImageInspection(Inspection):
    """The activations of an SAE on one image, and the image.

    Attributes:
        webp: The image as it enters the encoder, enlarged.
        ratio: The image's width, by its height.
        grid: Rows and columns of the tokens that are patches; None for an SAE of tokens without a place.
        before: Number of the tokens before those: CLS and registers, of an SAE of all tokens.
        size: Width and height of the image, in pixels.
    """

    webp: bytes
    ratio: float
    grid: tuple[int, int] | None
    before: int
    size: tuple[int, int]

    def strengths(self, patch: int | None) -> np.ndarray:
        """Returns how strongly the active neurons fire at a patch; for None, on average over all tokens."""
        return self.latents.mean(0) if patch is None else self.latents[self.before + patch]


class LoadedModel:
    """A model with its pack; the encoder comes with the first picture, the judge with the first search by meaning.

    Args:
        model: Folder or Hub id of an SAE with a pack.
        generators: The LLaVA and unCLIP that steering is shown with.
        name: Name on the page, see :func:`distinct_names`; default its Hub id, or its folder's name.

    Attributes:
        name: Name on the page.
        key: Text for it in a visitor's state: its name, or a secret if the visitor has extended it.
        own: Number of the last concepts, which a visitor has added.
    """

    def __init__(self, model: str | Path, generators: Generators | None = None, name: str | None = None):
        self.model_id = str(model)
        self.key = self.name = name or public_id(model)
        self.pack = Pack.from_pretrained(model)
        self.sae = load(model)
        self.own = 0
        self.generators = generators or Generators()
        self._lock = threading.RLock()

    def extended(self, cb: CBSAE, pack: Pack) -> "LoadedModel":
        """Returns the model with a visitor's concepts; encoder, judge and generators are shared."""
        _ = self.encoder, self.judge  # once for both
        other = copy.copy(self)
        for name in ("llava", "unclip", "clip", "_directions"):
            other.__dict__.pop(name, None)
        other.sae, other.pack = cb, pack
        other.own = self.own + len(cb.concepts) - len(self.concepts)
        return other

    @property
    def label(self) -> str:
        """The model's name, and what a visitor has added."""
        return self.name + (f" + {self.own} of yours" if self.own else "")

    @property
    def archive_name(self) -> str:
        """Name of a visitor's own model where they download it."""
        return re.sub(r"[^\w-]", "-", self.name) + "-extended"

    @property
    def concepts(self) -> list[str]:
        """The concepts of a CB-SAE's bottleneck; none of an SAE."""
        return list(self.sae.concepts) if isinstance(self.sae, CBSAE) else []

    @cached_property
    def nonsense(self) -> float | None:
        """The score that names must beat to be better than an untrained SAE's, as in its report; None without one."""
        return nonsense_beside(self.model_id)

    @property
    def telling(self) -> pd.DataFrame:
        """The neurons whose names are good, see :func:`telling`."""
        return telling(self.pack.neurons.frame, self.nonsense)

    @property
    def first_to_show(self) -> pd.DataFrame:
        """The neurons to show first, best first, see :func:`first_to_show`."""
        return first_to_show(self.pack.neurons.frame, self.pack.info["images"]["n"], self.nonsense)

    @property
    def best_neuron(self) -> int:
        """The neuron that is shown first."""
        return int(self.first_to_show.iloc[0]["neuron"])

    @property
    def alpha(self) -> float | None:
        """The strength at which steerability was measured, in units of latents; None where it was not."""
        return self.pack.info["scores"].get("steerability", {}).get("alpha")

    @cached_property
    def retained(self) -> frozenset[int]:
        """The neurons of a CB-SAE's parent that it still has, by their numbers there."""
        return frozenset(getattr(self.sae, "sae_neuron_ids", ()))

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The encoder that the SAE explains, of exactly the revision that it was trained on; whole images are seen.

        Refused is raised of a model that reads texts.
        """
        if self.pack.of_texts:
            raise Refused(f"{self.name} reads texts, not pictures. The tabs Find a concept and Neuron show them.")
        return explained_encoder(self.sae, beside=self.model_id)

    @cached_property
    def judge(self) -> ClipLike | None:
        """The judge that named the neurons, for searches by meaning; None where it cannot be loaded."""
        source = self.pack.info["judge"]
        if source["id"] is None:
            return None
        try:
            return ClipLike.from_pretrained(source["id"], source["revision"], beside=self.model_id)
        except (OSError, ValueError) as error:
            logger.warning("no search by meaning: %s", error)
            return None

    @cached_property
    def llava(self) -> LlavaSteerer:
        """LLaVA with this SAE; Unavailable is raised where it cannot be had."""
        with self._lock:
            return self.generators.llava(self.sae, self.pack, self.model_id)

    @cached_property
    def unclip(self) -> UnclipSteerer:
        """Stable unCLIP with this SAE; Unavailable is raised where it cannot be had."""
        with self._lock:
            return self.generators.unclip(self.sae, self.pack, self.model_id)

    @cached_property
    def clip(self) -> ClipZeroShotSteerer:
        """The encoder's whole CLIP with this SAE; Unavailable is raised where the encoder is none."""
        with self._lock:
            return self.generators.clip(self.sae, self.pack, self.model_id)

    def no_reader(self, name: str) -> str | None:
        """Returns why "llava", "unclip" or "clip" cannot be steered, as far as shows before it is loaded; else None."""
        try:
            if name == "clip":
                require_clip(self.sae, self.model_id)
            else:
                self.generators.require_reader(name, self.sae.encoder_id, self.model_id)
        except Unavailable as reason:
            return str(reason)
        return None

    def reader(self, name: str) -> str | None:
        """Returns a "llava" or "unclip" that reads the model's encoder: the page's own, or a known one of the Hub."""
        if self.no_reader(name) is None:
            return self.generators.ids[name]
        return self.generators.advised(name, self.sae.encoder_id, self.model_id)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The tables that `cbsae evaluate` has put beside the model; empty where there are none."""
        return self._beside(EVALUATION_NAME).get("tables", {})

    @cached_property
    def beside_nonsense(self) -> list[dict[str, Any]]:
        """Rows of this very model's figures beside those of controls, of training/controls.py; empty without them."""
        controls = self._beside(CONTROLS_NAME)
        own = controls.get("revision") == self.pack.info["model"]["revision"]
        return Facts(pack=self.pack.info, controls=controls).beside_nonsense() if own else []

    @cached_property
    def worked(self) -> dict[str, Any]:
        """The worked examples of this very model, of training/choose_examples.py; empty if there are none."""
        examples = self._beside(WORKED_NAME)
        return examples if examples.get("revision") == self.pack.info["model"]["revision"] else {}

    def _beside(self, name: str) -> dict[str, Any]:
        """Reads a results file of the model; empty where there is none."""
        file = Path(self.model_id) / name
        if not file.is_file():
            if Path(self.model_id).is_dir():  # "hub/my-sae" could be somebody's repository too
                return {}
            try:
                file = download(self.model_id, name, None, {})
            except ModelFileError:
                return {}
        return read_json(file)

    @cached_property
    def _directions(self) -> torch.Tensor:
        """Unit decoder rows of all neurons, ``[neurons, d_in]``."""
        with torch.no_grad():
            return torch.nn.functional.normalize(decoder_rows(self.sae, range(self.sae.d_latent)).float(), dim=1).cpu()

    def warm_up(self) -> None:
        """Loads encoder and judge before anybody waits for them."""
        with self._lock:
            if not self.pack.of_texts:
                self.inspect(white_image())
            self.find("warming up", 1)  # finds out what nonsense scores, too

    def find(self, text: str, limit: int) -> tuple[FindResult, list[int]]:
        """Searches the pack, by meaning too if there is a judge; returns the answer and its neurons, each once."""
        answer = self.pack.find(text, limit, None if self.judge is None else self.judge.embed_texts)
        return answer, list(dict.fromkeys(match.neuron for match in answer.matches))

    def inspect(self, image: Image.Image, of_pack: bool = False) -> ImageInspection:
        """Runs encoder and SAE on one RGB image.

        Args:
            image: The image.
            of_pack: Whether it is one of the pack's, which may show what the encoder saw already.
        """
        pixels = self._pixels([image], of_pack)
        x = self.encoder(pixels)[0]
        places = self.encoder.patch_rows
        image = self._as_image(pixels[0])
        return ImageInspection(
            **vars(Inspection.of(self.sae, x)),
            webp=as_webp(image),
            ratio=image.width / image.height,
            grid=None if places is None else self.encoder.grid,
            before=0 if places is None else places.start,
            size=image.size,
        )

    def relevance(self, neuron: int, images: Sequence[Image.Image], of_pack: bool = False) -> np.ndarray:
        """Returns the relevancy maps of a neuron on RGB images, ``[images, rows, columns]``; each goes up to 1.

        Args:
            neuron: The neuron.
            images: The images, of one or several sizes.
            of_pack: See :meth:`inspect`.

        Refused is raised where the encoder has none.
        """
        try:
            maps = self.encoder.relevance(self._pixels(images, of_pack), self.sae, neuron)
        except ValueError as error:
            raise Refused(str(error)) from None
        return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()

    def _pixels(self, images: Sequence[Image.Image], of_pack: bool) -> torch.Tensor:
        framed = of_pack and self.pack.cropped
        return self.encoder.pixel_values([self.encoder.framed(image) if framed else image for image in images])

    def icon(self, neuron: int, kind: str = "crop") -> str | None:
        """Returns the address of a neuron's icon, see :meth:`Pack.icon`, relative to the page; None if it has none."""
        if not self.pack.has_icon(neuron, kind):
            return None
        if neuron >= len(self.pack.neurons) - self.own:  # a visitor's own: it has no address
            return data_uri(self.pack.icon(neuron, kind) or b"")
        return f"neuron/{neuron}.webp?m={quote(self.name, safe='')}" + ("" if kind == "crop" else f"&of={kind}")

    def row(self, inspection: Inspection, place: int) -> Any:
        """Returns the row in the neuron table of one of the neurons that fire."""
        return self.pack.neurons[int(inspection.active[place])]

    def listed(self, inspection: Inspection, order: np.ndarray, hide_dense: bool) -> np.ndarray:
        """Returns the first places of ``order``, without those of dense neurons if they are hidden.

        Concept neurons grade every patch: that they are dense says nothing.
        """
        places = [
            place for place in order
            if not hide_dense or (row := self.row(inspection, place)).kind == "cb" or row.status != "dense"
        ]  # fmt: skip
        return np.array(places[:LISTED_NEURONS], dtype=int)

    def neighbours(self, neuron: int, count: int = 6) -> list[tuple[int, float]]:
        """Returns neurons whose decoder rows point most nearly the same way, with the cosines, nearest first."""
        cosines = self._directions @ self._directions[neuron]
        cosines[neuron] = -2.0
        values, ids = cosines.topk(min(count, len(cosines) - 1))
        return list(zip(ids.tolist(), values.tolist()))

    def _as_image(self, pixels: torch.Tensor) -> Image.Image:
        """Returns the preprocessed image, cropped as the encoder sees it, so that patches lie where they are drawn."""
        patch_size: int = self.encoder.model.config.patch_size  # type: ignore[assignment, union-attr]  # of nn.Module
        rows, columns = (patches * patch_size for patches in self.encoder.grid)
        pixels = pixels[:, :rows, :columns]
        mean, std = (
            torch.tensor(getattr(self.encoder.processor, f"image_{k}"))[:, None, None] for k in ("mean", "std")
        )
        array = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        image = Image.fromarray(array)
        scale = max(1, MAX_SIDE // max(image.size))
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
