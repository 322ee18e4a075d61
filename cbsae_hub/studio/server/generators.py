"""LLaVA, Stable unCLIP and the encoders' own CLIPs, loaded once for all models, where the machine can carry them."""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import safe_open
from transformers import AutoConfig

from cbsae_hub.models import CBSAE, SAE, resolve_id
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.steering import ClipZeroShotSteerer, LlavaSteerer, UnclipSteerer
from cbsae_hub.studio.server.names import public_id
from cbsae_hub.studio.server.refusal import Refused

_PATCHES = re.compile(r"\bpatch_embeddings?(\.projection)?\.weight$")  # of CLIP and SigLIP, of ViT and DINO
logger = logging.getLogger(__name__)

Steerer = TypeVar("Steerer", LlavaSteerer, UnclipSteerer)

READERS = {
    "llava": {
        "openai/clip-vit-large-patch14-336": "llava-hf/llava-1.5-7b-hf",
        "facebook/dinov2-large": "aimagelab/LLaVA_MORE-gemma_2_9b-dinov2-finetuning",
    },
    "unclip": {"openai/clip-vit-large-patch14": "sd2-community/stable-diffusion-2-1-unclip-small"},
}
"""Generators on the Hub by the encoder that is their vision tower: those of the recipes."""
TITLES = {"llava": "LLaVA", "unclip": "unCLIP"}
MAX_CPU_BYTES = 3 * 2**30  # of weights that are run without a GPU: beyond, an answer takes minutes
MAX_VOCABULARY = 5000  # words of a pack among which CLIP chooses, as many as in the paper


class Unavailable(Refused):
    """A model that cannot be run here; the steering tabs show stored answers instead."""


class Generators:
    """The LLaVA and the unCLIP that the page steers.

    Args:
        llava: Folder or Hub id of a LLaVA; None for none.
        unclip: Folder or Hub id of a Stable unCLIP pipeline; None for none.
        device: Device of both; default a GPU, if there is one.
    """

    def __init__(self, llava: str | None = None, unclip: str | None = None, device: str | None = None):
        self.ids = {"llava": llava, "unclip": unclip}
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._first: dict[str, Any] = {}
        self._clips: dict[tuple[str | None, str | None], ClipZeroShotSteerer] = {}
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()

    def llava(self, sae: SAE | CBSAE, pack: Pack, beside: str) -> LlavaSteerer:
        """Returns LLaVA with an SAE; all SAEs share its weights.

        Raises:
            Unavailable: If none was given, it cannot be loaded or carried, or the SAE does not fit.
        """
        self.require_reader("llava", sae.encoder_id, beside)
        first = self._load("llava", LlavaSteerer, sae, pack, beside)
        with _fitting("LLaVA"):
            return LlavaSteerer(first.model, first.processor, sae, pack)

    def unclip(self, sae: SAE | CBSAE, pack: Pack, beside: str) -> UnclipSteerer:
        """Returns Stable unCLIP with an SAE; see :meth:`llava`."""
        self.require_reader("unclip", sae.encoder_id, beside)
        first = self._load("unclip", UnclipSteerer, sae, pack, beside)
        with _fitting("unCLIP"):
            return UnclipSteerer(first.pipeline, sae, pack)

    def clip(self, sae: SAE | CBSAE, pack: Pack, beside: str) -> ClipZeroShotSteerer:
        """Returns the CLIP whose vision tower an SAE explains, with the pack's words; all SAEs share its weights.

        Like the encoder, it is on the CPU.

        Raises:
            Unavailable: If the encoder is no CLIP with a text tower, or cannot be loaded.
        """
        require_clip(sae, beside)
        place, words = (sae.encoder_id, sae.encoder_revision), tuple(pack.vocabulary[:MAX_VOCABULARY])
        with self._lock, _fitting("CLIP"):
            try:
                if place not in self._clips:
                    options = {"revision": sae.encoder_revision, "beside": beside}
                    self._clips[place] = ClipZeroShotSteerer.from_pretrained(
                        str(sae.encoder_id), sae, words, pack, **options
                    )
            except OSError as error:
                logger.warning("%s could not be loaded: %s", sae.encoder_id, error)
                raise Unavailable(
                    f"{public_id(str(sae.encoder_id))} could not be loaded here; the log of the page says why."
                ) from error
            first = self._clips[place]
            if first.vocabulary == words:
                return first.with_sae(sae, pack)
            return ClipZeroShotSteerer(first.model, first.image_processor, first.tokenizer, sae, words, pack)

    def require_reader(self, which: str, encoder: str | None, beside: str) -> None:
        """Refuses a generator that does not read an encoder, as far as this shows before it is loaded.

        Raises:
            Unavailable: If the page has none, or its vision tower is another encoder.
        """
        name, title = self.ids[which], TITLES[which]
        if name is None:
            which_one = f"one that reads the encoder {public_id(encoder)}" if encoder else "its folder or id"
            raise Unavailable(f"This page was started without {title}: start it with --{which} and {which_one}.")
        if encoder is not None and reads_encoder(which, name, encoder, beside) is False:
            raise Unavailable(
                f"{Path(name).name} does not read the encoder {public_id(encoder)}: what is changed there would not "
                "reach it."
            )

    def advised(self, which: str, encoder: str | None, beside: str) -> str | None:
        """Returns a generator that reads an encoder: the page's own, if it does, else a known one of the Hub."""
        name = self.ids[which]
        if name is not None and encoder is not None and reads_encoder(which, name, encoder, beside):
            return name
        return READERS[which].get(encoder or "")

    def _load(self, which: str, kind: type[Steerer], sae: SAE | CBSAE, pack: Pack, beside: str) -> Steerer:
        name = str(self.ids[which])  # which require_reader() has looked at
        with self._lock:
            if which in self._refused:
                raise Unavailable(self._refused[which])
            if which not in self._first:
                try:
                    self._require_room(name, beside)
                    self._first[which] = kind.from_pretrained(name, sae, pack, self.device, beside=beside)
                except Unavailable as error:
                    self._refused[which] = str(error)
                    raise
                except ValueError as error:  # of this SAE, perhaps not of the next
                    raise Unavailable(f"{Path(name).name} does not go with this SAE: {error}.") from error
                except OSError as error:
                    logger.warning("%s could not be loaded: %s", name, error)
                    raise Unavailable(
                        f"{Path(name).name} could not be loaded here; the log of the page says why."
                    ) from error
            return self._first[which]

    def _require_room(self, name: str, beside: str) -> None:
        size = weight_bytes(resolve_id(name, beside))
        if self.device == "cpu" and size > MAX_CPU_BYTES:
            raise Unavailable(
                f"{Path(name).name} has {size / 2**30:.0f} GB of weights, which this machine cannot run without a GPU."
            )


def require_clip(sae: SAE | CBSAE, beside: str) -> None:
    """Refuses an SAE whose encoder is no CLIP with a text tower, as far as this shows before it is loaded.

    Raises:
        Unavailable: If it does.
    """
    name = public_id(sae.encoder_id or "of this model")
    if sae.tower not in (None, "vision"):
        raise Unavailable(f"This SAE explains the {sae.tower} tower of {name}: CLIP's answers need a vision tower's.")
    folder = Path(resolve_id(str(sae.encoder_id), beside))
    if folder.is_dir() and (kind := AutoConfig.from_pretrained(folder).model_type) != "clip":
        raise Unavailable(
            f"The encoder {name} is of type {kind}. Only a CLIP with a text tower answers in words: choose a model "
            "that explains one."
        )


@contextmanager
def _fitting(generator: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Unavailable(f"This SAE does not go with the page's {generator}: {error}.") from error


def reads_encoder(which: str, generator: str, encoder: str, beside: str) -> bool | None:
    """Returns whether a generator's vision tower is an encoder, by their ids, or by the weights of two folders.

    None if nobody can say before it is loaded.
    """
    if READERS[which].get(encoder) == generator:
        return True
    folders = [Path(resolve_id(source, beside)) for source in (generator, encoder)]
    if not all(folder.is_dir() for folder in folders):
        return None
    tower, own = map(_patch_embedding, folders)
    if tower is None or own is None:
        return None
    dtype = min(tower.dtype, own.dtype, key=lambda kind: kind.itemsize)
    return tower.shape == own.shape and torch.equal(tower.to(dtype), own.to(dtype))


def _patch_embedding(folder: Path) -> torch.Tensor | None:
    """Returns the weights by which a vision tower reads patches; None if no file of a folder has them."""
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (it is no dictionary)
                if _PATCHES.search(name):
                    return weights.get_tensor(name)
    return None


def weight_bytes(source: str) -> int:
    """Returns the size of all safetensors files of a folder or a Hub repository; 0 where the Hub does not say."""
    if Path(source).is_dir():
        return sum(file.stat().st_size for file in Path(source).rglob("*.safetensors"))
    try:
        files = HfApi().model_info(source, files_metadata=True).siblings or []
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        logger.warning("the Hub does not say how large %s is: %s", source, error)
        return 0
    return sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
