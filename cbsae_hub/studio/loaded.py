"""What the page serves from: one model, its pack and its encoder, loaded once and never changed."""

import io
import logging
import threading
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cbsae_hub.models import SparseLatents
from cbsae_hub.models.auto import load
from cbsae_hub.pack import Pack
from cbsae_hub.vision.clip_like import ClipLike
from cbsae_hub.vision.encoder import VisionEncoder, to_rgb

logger = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000
SHOWN = 512  # pixels of the longer side of an uploaded picture as the page shows it


class ImageRefused(ValueError):
    """An upload that is no picture the page can show; the message is for its user."""


@dataclass(frozen=True)
class Inspection:
    """What an SAE sees in one picture.

    Attributes:
        shown: The picture as it enters the encoder, enlarged, as WebP.
        latents: ``[tokens, neurons]`` of the neurons in ``active``.
        active: Ids of the neurons that fire anywhere, strongest mean first.
        explained: Share of the activations' squared distance from the SAE's centre that the reconstruction keeps.
        cosine: Mean cosine of activations and reconstruction.
        token_error: ``[tokens]`` share of each token's squared distance from the centre that is lost.
    """

    shown: bytes
    latents: np.ndarray
    active: np.ndarray
    explained: float
    cosine: float
    token_error: np.ndarray


def read_picture(path: str) -> Image.Image:
    """Opens an upload as an upright RGB picture.

    Raises:
        ImageRefused: If it is no picture in a known format, broken, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ImageRefused(
                        f"This picture has {picture.width} x {picture.height} pixels. Please take one of at most "
                        f"{MAX_PIXELS // 1_000_000} million."
                    )
                if min(picture.size) < 2:
                    raise ImageRefused("This picture is only a line of pixels. Please take another one.")
                picture.draft("RGB", (2 * SHOWN, 2 * SHOWN))  # JPEG only: decodes to about what is needed
                return to_rgb(ImageOps.exif_transpose(picture))
        except ImageRefused:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageRefused("This is not a picture in PNG, JPEG or WebP. Please take another file.") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageRefused("This picture is damaged and cannot be opened. Please take another one.") from error


class Loaded:
    """A model with its pack; the encoder comes with the first picture, the judge with the first search by meaning.

    Args:
        model: Folder or Hub id of an SAE with a pack.
    """

    def __init__(self, model: str | Path):
        self.model_id = str(model)
        self.pack = Pack.from_pretrained(model)
        self.sae = load(model)
        self._lock = threading.Lock()

    @cached_property
    def encoder(self) -> VisionEncoder:
        """The encoder that the SAE explains, of exactly the revision that it was trained on."""
        sae = self.sae
        return VisionEncoder.from_pretrained(
            sae.encoder_id, sae.layer, sae.tokens, revision=sae.encoder_revision, beside=self.model_id
        )

    @cached_property
    def judge(self) -> ClipLike | None:
        """The judge that named the neurons, for searches by meaning; None where it cannot be had."""
        source = self.pack.info["judge"]
        try:
            return ClipLike.from_pretrained(source["id"], source["revision"], beside=self.model_id)
        except (OSError, ValueError) as error:
            logger.warning("no search by meaning: %s", error)
            return None

    def warm_up(self) -> None:
        """Loads encoder and judge before anybody waits for them."""
        with self._lock:
            self.inspect(Image.new("RGB", (64, 64), "white"))
            if self.judge is not None:
                self.judge.embed_texts(["warm"])

    @torch.inference_mode()
    def inspect(self, picture: Image.Image) -> Inspection:
        """Runs encoder and SAE on one RGB picture."""
        pixels = self.encoder.pixel_values([picture])
        x = self.encoder(pixels)[0]
        values, owners = self.sae.encode_sparse(x)
        decoded = self.sae.decode_sparse(values, owners)
        error, size = (x - decoded).square().sum(1), (x - self.sae.b_dec).square().sum(1)
        values, owners = self.sae.only_active(SparseLatents(values, owners))
        active = owners[values > 0].unique()
        latents = torch.zeros(len(x), self.sae.d_latent).scatter_add_(1, owners, values)[:, active]
        order = latents.mean(0).argsort(descending=True, stable=True)
        return Inspection(
            shown=self._as_seen(pixels[0]),
            latents=latents[:, order].numpy(),
            active=active[order].numpy(),
            explained=float(1 - error.sum() / size.sum()),
            cosine=float(torch.nn.functional.cosine_similarity(x, decoded).mean()),
            token_error=(error / size.clamp_min(1e-12)).numpy(),
        )

    def _as_seen(self, pixels: torch.Tensor) -> bytes:
        """The preprocessed picture, cropped as the encoder sees it, so that patches lie where they are drawn."""
        mean, std = (
            torch.tensor(getattr(self.encoder.processor, f"image_{k}"))[:, None, None] for k in ("mean", "std")
        )
        array = ((pixels * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture = Image.fromarray(array)
        scale = max(1, SHOWN // max(picture.size))
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=90)
        return buffer.getvalue()
