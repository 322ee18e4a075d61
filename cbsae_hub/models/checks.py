"""Checks of configuration values, the same for what a user types and what a downloaded file says."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

from cbsae_hub.words import clean_name, name_key

MAX_TEXT = 1000
TOKENS = {
    "vision": ("cls", "patches", "all", "mean"),
    "text": ("words", "text", "end", "all"),
    "language": ("image", "prompt", "answer", "all"),
    "projector": ("image",),
}
"""Kinds of towers, and the tokens that an SAE may read of each; n random ones it may read of any."""
RANDOM = re.compile(r"random:0*[1-9]\d{0,8}", re.ASCII)
MAX_DESCRIPTION = 20_000
MAX_PARTS = 1024
MAX_PART = 2**32


def integer(name: str, value: int, lowest: int, highest: int) -> int:
    """An int in [lowest, highest].

    Raises:
        ValueError: If it is anything else; so do all checks of this module.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, got {value!r:.80}")
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be between {lowest} and {highest}, got {int(value):.6g}")
    return int(value)


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number, got {value!r:.80}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and above 0, got {value!r:.80}")
    return float(value)


def boolean(name: str, value: bool) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r:.80}")
    return value


def choice(name: str, value: str, choices: Iterable[str]) -> str:
    """One of a few words."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r:.80}")
    return value


def text(name: str, value: str | None) -> str | None:
    """A short text, or None."""
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT):
        raise ValueError(f"{name} must be a text of at most {MAX_TEXT} characters, got {value!r:.80}")
    return value


def tokens(name: str, value: str | None, tower: str = "vision") -> str | None:
    """A choice of the tokens that a tower makes of an image or a text, or None where it is not known."""
    words = TOKENS[tower]
    if value is not None and not (isinstance(value, str) and (value in words or RANDOM.fullmatch(value))):
        raise ValueError(f"{name} must be {', '.join(words)} or random:n, got {value!r:.80}")
    return value


def tower(name: str, value: str | None) -> str | None:
    """A kind of tower, or None for a vision tower."""
    return None if value is None else choice(name, value, TOKENS)


def description(name: str, value: str | dict | None) -> str | dict | None:
    """A text or a JSON object of moderate size, or None."""
    if value is not None and not isinstance(value, (str, dict)):
        raise ValueError(f"{name} must be a text or a JSON object, got {value!r:.80}")
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from None
    if size > MAX_DESCRIPTION:
        raise ValueError(f"{name} takes {size} characters as JSON; the limit is {MAX_DESCRIPTION}")
    return value


def partition(name: str, sizes: Sequence[int] | None, whole: int | None = None) -> tuple[int, ...] | None:
    """Positive ints that sum to ``whole`` (if it is given), or None."""
    if sizes is None:
        return None
    if not isinstance(sizes, (list, tuple)) or not 1 <= len(sizes) <= MAX_PARTS:
        raise ValueError(f"{name} must be a list of 1 to {MAX_PARTS} sizes, got {str(sizes):.80}")
    sizes = tuple(integer(name, size, 1, MAX_PART if whole is None else whole) for size in sizes)
    if whole not in (None, sum(sizes)):
        raise ValueError(f"{name} must sum to {whole}, got a sum of {sum(sizes)}")
    return sizes


def neuron_ids(name: str, ids: Iterable[int], highest: int) -> list[int]:
    """Ids of neurons, from 0 to ``highest``: at least one, none twice."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(ids, Iterable):
        raise ValueError(f"{name} must be a list of neuron ids, got {ids!r:.80}")
    numbers: dict[int, None] = {}
    for number in ids:
        if integer(name, number, 0, highest) in numbers:
            raise ValueError(f"{name} has neuron {number} twice")
        numbers[int(number)] = None
    if not numbers:
        raise ValueError(f"{name} is empty: retain at least one neuron")
    return list(numbers)


def concept_names(name: str, concepts: Iterable[str]) -> list[str]:
    """Names of concepts as :func:`clean_name` writes them; at least one, none empty, none twice by :func:`name_key`."""
    if isinstance(concepts, str) or not isinstance(concepts, Iterable):
        raise ValueError(f"{name} must be a list of names, got {concepts!r:.80}")
    names: dict[str, str] = {}
    for concept in concepts:
        if not isinstance(concept, str) or not clean_name(concept) or len(concept) > MAX_TEXT:
            raise ValueError(f"{name} must be names of 1 to {MAX_TEXT} characters, got {concept!r:.80}")
        if (key := name_key(concept)) in names:
            raise ValueError(
                f"{name}: {names[key]!r:.80} is there twice; case, white space and what is invisible do not count"
            )
        names[key] = clean_name(concept)
    if not names:
        raise ValueError(f"{name} is empty: name at least one concept")
    return list(names.values())
