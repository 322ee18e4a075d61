"""Activations of text encoders: that of a CLIP, of a SigLIP, or of a diffusion pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cbsae_hub.encoders.passages import Passage, Span, edit_of_rows, passages_of, random_count, require_tokens, rows_of
from cbsae_hub.encoders.site import Edit, ResidualSite, find_blocks
from cbsae_hub.encoders.weights import load_complete
from cbsae_hub.hub.locate import Located, locate

CLASSES = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
}
"""Types of models that hold a text encoder or are one, and the class of the text encoder."""


@dataclass(frozen=True)
class TextInputs:
    """Texts as a tokenizer makes them.

    Attributes:
        texts: The texts.
        ids: Token ids ``[texts, tokens]``, with the padding that the model reads.
        chosen: The tokens that the encoder reads, bool ``[texts, tokens]``; with "random:n" those that it draws from.
        spans: Where each token stands in its text; special tokens and padding have an empty span.
    """

    texts: list[str]
    ids: Tensor
    chosen: Tensor
    spans: list[list[Span]]


class TextEncoder:
    """Activations of one layer of a text encoder, for the tokens that are asked for.

    Of a Stable Diffusion, ``TextEncoder(pipeline.text_encoder, pipeline.tokenizer)`` reads what its U-Net is given.

    Args:
        model: A text encoder of transformers, CLIP's or SigLIP's; or a model that holds one.
        tokenizer: Its tokenizer, a fast one.
        layer: Block whose output is read, from 0; negative numbers count from the end. Olson et al. (2025, section 4.1)
            read the penultimate one.
        tokens: "words", the tokens of the prompt itself; "text", these with the tokens that begin and end a text;
            "end", that which ends it, of which CLIP makes its embedding; "all", padding too, which a Stable Diffusion
            reads; or "random:n", n of the words, drawn with replacement.
        repo_id: Folder or Hub id of the model.
        revision: Its version.

    Raises:
        ValueError: If there is no text encoder, the layer or the tokens are unknown, or the tokenizer is a slow one.
    """

    tower = "text"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layer: int = -2,
        tokens: str = "words",
        repo_id: str | None = None,
        revision: str | None = None,
    ):
        self.model: Any = model.eval().requires_grad_(False)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} does not tell where its tokens stand: take a fast tokenizer")
        self.tokenizer = tokenizer
        self.site = ResidualSite.find(model, layer, self.tower)
        self.layer, self.num_layers = self.site.layer, len(find_blocks(model, self.tower)[0])
        self.tokens = require_tokens(tokens, self.tower)
        self.repo_id, self.revision = repo_id, revision
        self.config: Any = getattr(model.config, "text_config", model.config)
        self.d_in: int = self.config.hidden_size
        # A tokenizer's own limit is without bound where its files say nothing.
        self.num_tokens: int = min(self.config.max_position_embeddings, tokenizer.model_max_length)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        layer: int = -2,
        tokens: str = "words",
        revision: str | None = None,
        device: str | torch.device = "cpu",
        beside: str | Path | None = None,
    ) -> "TextEncoder":
        """Loads a text encoder from a folder or the Hub: safetensors only, no remote code.

        Args:
            repo_id: Folder or Hub id of a CLIP, a SigLIP, their text encoder alone, or a pipeline of diffusers, whose
                ``text_encoder`` and ``tokenizer`` are taken.
            layer: See the class.
            tokens: See the class.
            revision: See :func:`cbsae_hub.hub.locate.locate`.
            device: Device of the model.
            beside: A model folder next to which the encoder may lie, see :func:`cbsae_hub.models.resolve_id`.

        Raises:
            ValueError: See the class; or the weights are not those that ``revision`` names, some are missing, or the
                model has no text encoder of a kind that is known.
            OSError: If there is no such model, or it has no safetensors weights.
        """
        located = locate(repo_id, revision, beside)
        config, inside = _config(located)
        if config.model_type not in CLASSES:
            raise ValueError(
                f"{repo_id} has a text encoder of type {config.model_type!r}; known are {', '.join(CLASSES)}"
            )
        text_config = getattr(config, "text_config", config)
        place = {**located.pretrained, "config": text_config} | ({"subfolder": "text_encoder"} if inside else {})
        model = load_complete(CLASSES[config.model_type], located.id, **place)
        subfolder = "tokenizer" if inside else ""
        tokenizer = AutoTokenizer.from_pretrained(**located.pretrained, subfolder=subfolder)
        commit = None if located.folder is not None else getattr(config, "_commit_hash", None)
        return cls(model.to(device), tokenizer, layer, tokens, located.id, commit or located.revision)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def tokens_per_image(self) -> int | None:
        """Number of rows that a text gives; None where that depends on the text."""
        fixed = {"end": 1, "all": self.num_tokens}
        return fixed.get(self.tokens, random_count(self.tokens))

    def provenance(self) -> dict[str, Any]:
        """Description of the activations, for the config of an SAE that is trained on them."""
        return {
            "encoder_id": self.repo_id,
            "encoder_revision": self.revision,
            "tower": self.tower,
            "layer": self.layer,
            "tokens": self.tokens,
            "preprocessing": {"tokenizer": type(self.tokenizer).__name__, "max_length": self.num_tokens},
        }

    def prepare(self, texts: Sequence[str]) -> TextInputs:
        """Tokenises texts; what is longer than the model reads is cut off, as its own pipeline does.

        Raises:
            ValueError: If there are no texts, or they are not a list of texts.
        """
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"give texts as a list, also a single one: [text]; got {texts!r:.80}")
        # SigLIP has learnt with its padding. A token of CLIP reads only what is before it.
        whole = self.tokens == "all" or self.config.model_type.startswith("siglip")
        encoded = self.tokenizer(
            list(texts),
            padding="max_length" if whole else True,
            truncation=True,
            max_length=self.num_tokens,
            padding_side="right",
            return_tensors="pt",
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )
        # By the masks, not by ids: the padding of Stable Diffusion is the token that ends a text.
        written, special = encoded.attention_mask.bool(), encoded.special_tokens_mask.bool()
        chosen = {
            "text": written,
            "end": torch.arange(written.shape[1]) == written.sum(1, keepdim=True) - 1,
            "all": torch.ones_like(written),
        }.get(self.tokens, written & ~special)
        spans = [[(start, stop) for start, stop in one] for one in encoded.offset_mapping.tolist()]
        return TextInputs(list(texts), encoded.input_ids, chosen, spans)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str] | TextInputs, seeds: Sequence[int] | None = None) -> list[Tensor]:
        """Activations of the chosen tokens.

        Args:
            texts: Texts, or what :meth:`prepare` made of them; one batch.
            seeds: With "random:n", a seed per text; default its place in the batch.

        Returns:
            ``[tokens, d_in]`` float32 of each text, in the order of its tokens.
        """
        inputs = self._inputs(texts)
        v = self.site.read(lambda: self.run(inputs)).float()
        return rows_of(v, inputs.chosen, self.tokens, seeds)

    @torch.no_grad()
    def run(self, texts: Sequence[str] | TextInputs) -> Any:
        """Runs the text encoder itself while edits of the site act; returns its output in transformers."""
        ids = self._inputs(texts).ids.to(self.device)
        model = getattr(self.model, "text_model", self.model)
        return model(input_ids=ids)  # no mask: neither CLIP nor SigLIP was trained with one

    def passages(self, texts: Sequence[str] | TextInputs) -> list[Passage]:
        """Texts, and where the rows of :meth:`__call__` stand in them; with "random:n", those of all words."""
        inputs = self._inputs(texts)
        return passages_of(inputs.texts, inputs.spans, inputs.chosen)

    def on_tokens(self, fn: Edit, texts: Sequence[str] | TextInputs) -> Edit:
        """An edit for ``site.edit`` that changes the chosen tokens of these texts alone.

        Args:
            fn: Gets and returns the activations of all of them, ``[rows, d_in]``.
            texts: The texts that the model reads meanwhile, padded as :meth:`prepare` does.
        """
        return edit_of_rows(fn, self._inputs(texts).chosen)

    def _inputs(self, texts: Sequence[str] | TextInputs) -> TextInputs:
        return texts if isinstance(texts, TextInputs) else self.prepare(texts)


def _config(located: Located) -> tuple[Any, bool]:
    """The config of a model, or of the text encoder inside a pipeline; and whether it is a pipeline."""
    try:
        return AutoConfig.from_pretrained(**located.pretrained), False
    except (OSError, ValueError) as error:
        try:
            return AutoConfig.from_pretrained(**located.pretrained, subfolder="text_encoder"), True
        except (OSError, ValueError):
            raise OSError(
                f"the text encoder {located.id} could not be loaded. Check the id, log in with `hf auth login`, or "
                f"give the path of a downloaded copy ({error})"
            ) from error
