"""Links: what the page shows, in the query of its address, and back. Nothing is stored anywhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from cbsae_hub.studio.basket import BadBasket, Basket, Item, checked, span_of
from cbsae_hub.studio.loaded import Loaded
from cbsae_hub.studio.pictures import WHITE, is_sample

TABS = ("start", "inspect", "find", "neuron", "llava", "draw", "scores", "own", "use")
OPS = ("set", "add")
MAX_QUERY = 100
MAX_QUESTION = 200
MAX_SEED = 2**31 - 1
MAX_SEEDS, MAX_STEPS, MIN_STEPS = 4, 30, 5
# All but "m", which says the model that the others are about.
KEYS = frozenset("tab q neuron b unit pic ask word alone op keep seeds seed steps".split())
_EDIT = re.compile(r"(\d{1,7}):(-?\d{1,6}(?:\.\d{1,3})?)(!?)", re.ASCII)


@dataclass(frozen=True)
class Link:
    """What a link can hold; None or "" is what it does not say."""

    model: str | None = None
    tab: str | None = None
    query: str = ""
    neuron: int | None = None
    basket: Basket = Basket()
    picture: str | None = None
    question: str = ""
    word: str = ""
    alone: bool | None = None
    op: str | None = None
    keep: bool | None = None
    seeds: int | None = None
    seed: int | None = None
    steps: int | None = None


def write(link: Link) -> str:
    """The query of an address, without "?"; uploads stay out of it."""
    edits = ",".join(f"{item.neuron}:{item.value:.3f}{'!' if item.muted else ''}" for item in link.basket.items)
    said = {
        "m": link.model,
        "tab": link.tab,
        "q": link.query,
        "neuron": link.neuron,
        "b": edits,
        "unit": "absolute" if edits and link.basket.unit == "absolute" else None,
        "pic": link.picture if link.picture and (link.picture == WHITE or link.picture[0] == "s") else None,
        "ask": link.question,
        "word": link.word,
        "alone": None if link.alone is None else int(link.alone),
        "op": link.op,
        "keep": None if link.keep is None else int(link.keep),
        "seeds": link.seeds,
        "seed": link.seed,
        "steps": link.steps,
    }
    return urlencode({key: value for key, value in said.items() if value not in (None, "")})


def model_of(parameters: Mapping[str, str], models: Mapping[str, Any]) -> str | None:
    """The model that an address names, if the page serves it."""
    name = parameters.get("m")
    return name if name in models else None


def read(parameters: Mapping[str, str], loaded: Loaded) -> tuple[Link, list[str]]:
    """What an address says, and which of the page's own parameters could not be read; others are left alone.

    Args:
        parameters: The query of the address.
        loaded: The model that it is about.
    """
    link, bad = Link(), []
    for key, text in parameters.items():
        if key not in KEYS:  # what is nobody's here: Gradio and Spaces add their own, and so do those who count clicks
            continue
        changes = _changes(key, text, loaded) if len(text) <= 500 else None
        if changes is None:
            bad.append(key)
        else:
            link = replace(link, **changes)
    if link.basket.items and parameters.get("unit") == "absolute":
        link = replace(link, basket=replace(link.basket, unit="absolute"))
    return link, bad


def _changes(key: str, text: str, loaded: Loaded) -> dict[str, Any] | None:
    """What one parameter says, or None."""
    if key == "tab":
        return {"tab": text} if text in TABS else None
    if key in ("q", "ask", "word"):
        name, limit = {"q": ("query", MAX_QUERY), "ask": ("question", MAX_QUESTION), "word": ("word", 40)}[key]
        return {name: " ".join(text.split())} if len(text) <= limit else None
    if key == "neuron":
        number = _whole(text, 0, len(loaded.pack.neurons) - 1)
        return None if number is None else {"neuron": number}
    if key == "b":
        items = _items(text, loaded)
        return None if items is None else {"basket": Basket(items)}
    if key == "unit":
        return {} if text in ("p99", "absolute") else None
    if key == "pic":
        return {"picture": text} if text == WHITE or is_sample(text, loaded.pack) else None
    if key in ("alone", "keep"):
        return {key: text == "1"} if text in ("0", "1") else None
    if key == "op":
        return {"op": text} if text in OPS else None
    spans = {"seeds": (1, MAX_SEEDS), "seed": (0, MAX_SEED), "steps": (MIN_STEPS, MAX_STEPS)}
    number = _whole(text, *spans[key]) if key in spans else None
    return None if number is None else {key: number}


def _items(text: str, loaded: Loaded) -> tuple[Item, ...] | None:
    matches = [_EDIT.fullmatch(part) for part in text.split(",")]
    if not all(matches):
        return None
    try:
        return checked([(int(m[1]), _within(float(m[2]), int(m[1]), loaded), m[3] == "!") for m in matches], loaded)
    except BadBasket:
        return None


def _within(value: float, neuron: int, loaded: Loaded) -> float:
    """Values are rounded in a link: the ends of a span may lie a thousandth outside."""
    if neuron >= len(loaded.pack.neurons):
        return value
    span = span_of(loaded, neuron)
    return min(max(value, span.low), span.high) if span.low - 0.001 <= value <= span.high + 0.001 else value


def _whole(text: str, low: int, high: int) -> int | None:
    number = int(text) if re.fullmatch(r"\d{1,10}", text, re.ASCII) else -1
    return number if low <= number <= high else None
