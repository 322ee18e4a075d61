"""Texts in prompts, and warnings of all that a text tower does not read of them."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerBase, SiglipModel

from cbsae_hub.words import some

logger = logging.getLogger(__name__)

EXAMPLES = 3  # of the texts that a warning is about
# Makes padded token ids [texts, tokens] of texts, cut at a length.
Tokenize = Callable[[list[str], int], Tensor]


def fill(template: str, texts: Sequence[str]) -> list[str]:
    """A prompt of each text.

    Raises:
        ValueError: If the template has no ``{}``.
    """
    if "{}" not in template:
        raise ValueError(f"a template needs one {{}} for the text, got {template!r}")
    return [template.replace("{}", text) for text in texts]


def cutting(tokenizer: PreTrainedTokenizerBase) -> Tokenize:
    """A tokenizer of transformers, called as one of open_clip."""

    def tokenize(lines: list[str], length: int) -> Tensor:
        return tokenizer(lines, padding=True, truncation=True, max_length=length, return_tensors="pt").input_ids

    return tokenize


def tell_unread(
    tokenize: Tokenize, padding: int, context: int, texts: Sequence[str], templates: Sequence[str], reader: str | None
) -> None:
    """Warns of texts that are longer than what a model reads, and of texts that differ, but to the model do not.

    Texts that differ in capital letters mean the same: the warning leaves them out. ``padding`` is the id with which
    the tokenizer fills up, ``context`` the number of tokens that the model called ``reader`` reads.
    """
    cut, kinds = torch.zeros(len(texts), dtype=torch.bool), []
    for template in templates:
        lines = fill(template, texts)
        ids = tokenize(lines, context)
        kinds.append(ids.unique(dim=0, return_inverse=True)[1])
        # Start and end of a text count, and may look like padding: of CLIP they do.
        full = ((ids != padding).sum(1) >= context - 2).nonzero().flatten()
        if len(full):
            whole = tokenize([lines[i] for i in full.tolist()], 2 * context)
            cut[full] |= (whole != padding).sum(1) > (ids[full] != padding).sum(1)
    name = reader or "the text tower"
    if longer := [_short(text) for text, lost in zip(texts, cut.tolist()) if lost]:
        logger.warning(
            "%s reads the first %d tokens of a text: %d of %d are longer, and what comes later does not count: %s",
            name, context, len(longer), len(texts), some(longer, EXAMPLES),
        )  # fmt: skip
    alike: dict[tuple[int, ...], dict[str, str]] = defaultdict(dict)
    for text, kind in zip(texts, torch.stack(kinds, 1).tolist()):
        alike[tuple(kind)].setdefault(text.casefold(), text)
    if groups := [list(group.values()) for group in alike.values() if len(group) > 1]:
        examples = [" = ".join(_short(text) for text in group[:EXAMPLES]) for group in groups]
        logger.warning(
            "%s does not tell apart %d of %d texts, which share embeddings: %s",
            name, sum(map(len, groups)), len(texts), some(examples, EXAMPLES),
        )  # fmt: skip


def mean_embedding(
    embed: Callable[[list[str]], Tensor], texts: Sequence[str], templates: Sequence[str], batch: int
) -> Tensor:
    """Unit embeddings of texts, ``[texts, d]`` float32: means of the unit embeddings of a text's prompts.

    ``embed`` makes embeddings ``[prompts, d]`` of prompts, ``batch`` at once.

    Raises:
        ValueError: If a template has no ``{}``.
    """
    unit = []
    for template in templates:
        lines = fill(template, texts)
        parts = [embed(lines[start : start + batch]).float() for start in range(0, len(lines), batch)]
        unit.append(F.normalize(torch.cat(parts), dim=-1))
    return F.normalize(torch.stack(unit).sum(0), dim=-1)


@torch.no_grad()
def embed_prompts(
    model: CLIPModel | SiglipModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    templates: Sequence[str],
    reader: str | None,
    batch: int = 256,
) -> Tensor:
    """Unit embeddings of texts by a CLIP or SigLIP of transformers, ``[texts, d]`` float32 on the model's device.

    Arguments and errors as :func:`mean_embedding`; ``reader`` is what warnings call the model.
    """
    text_config: Any = model.config.text_config
    # A tokenizer's own limit is without bound where its files say nothing.
    context = min(text_config.max_position_embeddings, tokenizer.model_max_length)
    padding = "max_length" if model.config.model_type == "siglip" else True  # as each was trained
    options = {"padding": padding, "truncation": True, "max_length": context, "return_tensors": "pt"}
    tell_unread(cutting(tokenizer), tokenizer.pad_token_id, context, texts, templates, reader)

    def embed(lines: list[str]) -> Tensor:
        # No mask: SigLIP was trained to read its padding, and what stands after a text's end never reaches CLIP's.
        ids = tokenizer(lines, **options).input_ids
        return model.get_text_features(input_ids=ids.to(model.device)).pooler_output

    return mean_embedding(embed, texts, templates, batch)


def _short(text: str) -> str:
    """A text in quotes, of a long one its two ends: what tells it from another may be at either."""
    return repr(text if len(text) <= 60 else f"{text[:35]} ... {text[-20:]}")
