"""Tokens that encoders of texts choose, of texts of any length, and their activations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cbsae_hub.encoders.site import Edit
from cbsae_hub.models import checks

Span = tuple[int, int]


@dataclass(frozen=True)
class Passage:
    """A text, and where in it the tokens are whose activations an encoder gives.

    Attributes:
        text: The text.
        spans: First character and the one after the last, of each row of activations; a token that stands for nothing
            that is written, the end of a text for one, has an empty span.
    """

    text: str
    spans: list[Span]


def random_count(tokens: str) -> int | None:
    """The n of "random:n"; None for another choice of tokens."""
    return int(tokens.removeprefix("random:")) if tokens.startswith("random:") else None


def passages_of(texts: Sequence[str], spans: Sequence[Sequence[Span]], chosen: Tensor) -> list[Passage]:
    """Texts with the spans of their chosen tokens, bool ``[texts, tokens]``."""
    return [
        Passage(text, [span for span, is_chosen in zip(own, mask) if is_chosen])
        for text, own, mask in zip(texts, spans, chosen.tolist())
    ]


def rows_of(v: Tensor, chosen: Tensor, tokens: str, seeds: Sequence[int] | None) -> list[Tensor]:
    """The chosen tokens of each text, ``[n, d]``; with "random:n" n of these, see :func:`draw`.

    Args:
        v: ``[texts, tokens, d]``.
        chosen: Bool ``[texts, tokens]``.
        tokens: The choice of tokens.
        seeds: A seed per text.
    """
    count = random_count(tokens)
    places = chosen if count is None else draw(chosen, count, seeds)
    return [one[own.to(v.device)] for one, own in zip(v, places)]


def draw(chosen: Tensor, count: int, seeds: Sequence[int] | None) -> list[Tensor]:
    """Places of ``count`` tokens of each text, drawn with replacement among the chosen ones ``[texts, tokens]``.

    Which are drawn of a text depends on its seed alone; default its place in the batch.

    Raises:
        ValueError: If no token of a text is among them; names the text's place.
    """
    places = []
    for text, (mask, seed) in enumerate(zip(chosen, range(len(chosen)) if seeds is None else seeds)):
        among = mask.nonzero().flatten()
        if not len(among):
            raise ValueError(f"text {text} of the batch has no token of which random ones could be drawn: leave it out")
        generator = torch.Generator().manual_seed(int(seed))
        places.append(among[torch.randint(len(among), (count,), generator=generator)])
    return places


def edit_of_rows(fn: Edit, chosen: Tensor) -> Edit:
    """An edit that changes the chosen tokens alone, bool ``[texts, tokens]``: ``fn`` gets and returns ``[rows, d]``."""

    def edit(v: Tensor) -> Tensor:
        if v.shape[:2] != chosen.shape:
            raise ValueError(f"{tuple(v.shape[:2])} tokens passed, and the edit is of {tuple(chosen.shape)}")
        edited, where = v.clone(), chosen.to(v.device)
        edited[where] = fn(v[where]).to(v.dtype)
        return edited

    return edit


def require_tokens(tokens: str | None, tower: str) -> str:
    """A choice of tokens that a tower has.

    Raises:
        ValueError: If it is none.
    """
    if tokens is None:
        raise ValueError(f"the encoder has to be told which tokens: {', '.join(checks.TOKENS[tower])} or random:n")
    return checks.tokens("tokens", tokens, tower) or tokens
