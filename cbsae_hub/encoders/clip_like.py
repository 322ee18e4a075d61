"""Image and text embeddings in one space, by open_clip or transformers: the teacher and the judge."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import file_exists
from PIL import Image
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from cbsae_hub.encoders.prompts import mean_embedding, tell_unread
from cbsae_hub.encoders.two_towers import load_two_towers
from cbsae_hub.encoders.vision import require_images, to_rgb
from cbsae_hub.encoders.weights import alone
from cbsae_hub.hub.files import CONFIG_NAME, replace_file
from cbsae_hub.hub.locate import Located, OtherWeights, download_folder, locate
from cbsae_hub.lazy import needed
from cbsae_hub.models import resolve_id

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def named_by_open_clip(repo_id: str) -> tuple[str, str] | None:
    """Architecture and tag, if an id names one of open_clip's own models, such as ``ViT-B-16/openai``."""
    architecture, _, tag = repo_id.partition("/")
    return (architecture, tag) if (architecture, tag) in _open_clip().list_pretrained() else None


def _open_clip() -> ModuleType:
    """Imports open_clip, which takes seconds and which only its judges need."""
    with needed("open_clip_torch", "a judge of open_clip"):
        import open_clip
    return open_clip


def _open(name: str, tag: str | None, device: str | torch.device) -> tuple[Any, Any, Any]:
    """A model of open_clip, its preprocessing and its tokenizer."""
    with alone:  # its text tower may be one of transformers
        model, _, preprocess = _open_clip().create_model_and_transforms(name, tag, device=device)
    return model, preprocess, _open_clip().get_tokenizer(name)


class ClipLike:
    """Unit embeddings of images and of texts.

    Args:
        model: An open_clip model.
        preprocess: Makes a tensor of a PIL image.
        tokenizer: Makes padded token ids of texts, cut at ``context_length`` if that is an argument: one of open_clip.
        repo_id: Folder or Hub id of the model.
        revision: Its version.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[..., torch.Tensor],
        repo_id: str,
        revision: str | None = None,
    ):
        self.model: Any = model.eval().requires_grad_(False)  # open_clip has a class for each architecture
        self.preprocess, self.tokenizer = preprocess, tokenizer
        self.repo_id, self.revision = repo_id, revision

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        beside: str | Path | None = None,
    ) -> "ClipLike":
        """Loads a model by name.

        Args:
            repo_id: A folder in open_clip's local-dir format with its tokenizer; a Hub repository in open_clip's
                format (``laion/CLIP-ViT-B-32-...``); one of open_clip's own, ``ViT-B-16/openai``; or a CLIP or SigLIP
                of transformers, by folder or Hub id.
            revision: See :func:`cbsae_hub.hub.locate.locate`.
            device: Device of the model.
            beside: A model folder next to which this one may lie, see :func:`cbsae_hub.models.resolve_id`.

        Raises:
            ValueError: If there is no such model, or the weights are not those that ``revision`` names.
            FileNotFoundError: If the folder lacks a config or safetensors weights.
        """
        if own := named_by_open_clip(str(repo_id)):
            architecture, tag = own
            return cls(*_open(architecture, tag, device), str(repo_id), tag)
        located, folder = _find(repo_id, revision, beside)
        of_transformers = not (folder / CONFIG).is_file() and (folder / CONFIG_NAME).is_file()
        for file in () if of_transformers else (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} lacks {file}: it is not a model in open_clip's format")
        version = folder.name if located.folder is None else located.revision  # the cache names folders by their commit
        if of_transformers:
            return cls(*load_two_towers(located, repo_id, device), str(repo_id), version)
        return cls(*_open(f"local-dir:{folder}", None, device), str(repo_id), version)

    @staticmethod
    def knows(repo_id: str | Path, beside: str | Path | None = None) -> bool:
        """Whether an id names one of open_clip's own models, or a folder or Hub repository in its format."""
        if named_by_open_clip(str(repo_id)):
            return True
        source = resolve_id(str(repo_id), beside)
        return (Path(source) / CONFIG).is_file() if Path(source).is_dir() else file_exists(source, CONFIG)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.logit_scale.device

    @property
    def logit_scale(self) -> float:
        """The inverse temperature of the model's zero-shot softmax."""
        return float(self.model.logit_scale.exp())

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 256) -> torch.Tensor:
        """Unit embeddings of PIL images of any mode, ``[n, d]`` float32 on the CPU.

        Raises:
            ValueError: If there are no images.
        """
        require_images(images)
        starts = range(0, len(images), batch_size)
        return torch.cat([self.embed_pixels(self.pixel_values(images[i : i + batch_size])) for i in starts])

    def pixel_values(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Preprocessed PIL images of any mode, ``[n, 3, h, w]``."""
        return torch.stack([self.preprocess(to_rgb(image)) for image in images])

    @torch.no_grad()
    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """:meth:`embed_images` of one batch of :meth:`pixel_values`."""
        return F.normalize(self.model.encode_image(pixels.to(self.device)).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(
        self, texts: Sequence[str], templates: Sequence[str] = ("{}",), batch_size: int = 256
    ) -> torch.Tensor:
        """Unit embeddings of texts, ``[n, d]`` float32 on the CPU.

        Warns of texts that are longer than what the model reads, and of texts that are the same to it.

        Args:
            texts: One or more.
            templates: Prompts with one ``{}``; the unit embeddings of all are averaged and made unit again. The
                default is the bare text, as CLIP-Dissect has it.
            batch_size: Texts at once.

        Raises:
            ValueError: If there are no texts, the tokenizer finds nothing in one, or a template has no ``{}``.
        """
        if not len(texts):
            raise ValueError("no texts were given")
        # Of such a text only the start and the end would be embedded: the same for all of them, and of no concept.
        nothing = self.tokenizer([""])
        unread = (self.tokenizer(list(texts)) == nothing).all(1)
        if unread.any():
            empty = ", ".join(repr(text) for text, bad in zip(texts, unread.tolist()) if bad)
            raise ValueError(f"the judge's tokenizer finds nothing to read in {empty}: leave it out")
        tell_unread(self.tokenizer, int(nothing.mode().values), nothing.shape[1], texts, templates, self.repo_id)

        def embed(lines: list[str]) -> torch.Tensor:
            return self.model.encode_text(self.tokenizer(lines).to(self.device))

        return mean_embedding(embed, texts, templates, batch_size).cpu()


def _find(repo_id: str | Path, revision: str | None, beside: str | Path | None) -> tuple[Located, Path]:
    """Finds a model in open_clip's format, and the folder of its weights, config and tokenizer on this machine."""
    try:
        located = locate(repo_id, revision, beside)
        patterns = ("*.json", "*.txt", "*.model", WEIGHTS)
        return located, located.folder or download_folder(located.id, revision, patterns)
    except OtherWeights:
        raise
    except OSError as error:
        kinds = "neither a folder, nor one of open_clip's ARCHITECTURE/TAG, nor could it be had from the Hub"
        raise ValueError(f"{repo_id!r} is {kinds}: {error}") from error


def save_clip_like(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    folder: str | Path,
) -> None:
    """Writes a folder in open_clip's local-dir format, tokenizer included.

    Args:
        model: An open_clip model built with ``open_clip.CLIP(**model_cfg)``.
        tokenizer: Tokenizer whose padding has id 0 and whose end-of-text has the largest id, as open_clip expects.
        model_cfg: open_clip's ``model_cfg``.
        preprocess_cfg: open_clip's ``preprocess_cfg``: ``mean``, ``std``, ...
        folder: Its place; created.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    # The name only says that there is a tokenizer; from a folder, open_clip always reads the folder's own.
    text = {**model_cfg["text_cfg"], "hf_tokenizer_name": folder.name}
    config = {"model_cfg": {**model_cfg, "text_cfg": text}, "preprocess_cfg": preprocess_cfg}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with replace_file(folder / WEIGHTS) as partial:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
