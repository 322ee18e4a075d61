"""Links: what the page shows, in the query of its address, and back. Nothing is stored on the server.

The whole state of a visit is in components of the page, in the visitor's browser: the address follows them
(static/address.js, by :data:`PARTS`), and :func:`read` is the way back.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import UNITS, BadBasket, Basket, Item, checked, span_of
from cbsae_hub.studio.server.experiments import STEPS
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.view.pictures import WHITE, is_sample

TABS = ("start", "inspect", "find", "neuron", "llava", "draw", "scores", "own", "use")
OPS = ("set", "add")
WHERE = {"In the picture": "0", "Alone, nothing else active": "1"}
HOW = dict(zip(("set the neuron", "add to it"), OPS))
SORTS = {
    "Name's score": "score",
    "Interpretability": "interpretability",
    "Steerability": "steerability",
    "MonoSemanticity": "monosemanticity",
    "How often it fires": "token_density",
    "Strength (p99)": "p99",
}
MAX_QUERY = 100
MAX_QUESTION = 200
MAX_WORD = 40
MAX_CONCEPTS, MAX_LETTERS = 20, 40
MAX_WORDS = MAX_CONCEPTS * (MAX_LETTERS + 2)
MAX_SEED = 2**31 - 1
MAX_SEEDS, MAX_STEPS, MIN_STEPS = 4, 30, 5
MAX_ASIDE = 2000
_EDIT = re.compile(r"(\d{1,7}):(-?\d{1,6}(?:\.\d{1,3})?)(!?)", re.ASCII)


@dataclass(frozen=True)
class Link:
    """What a link can hold; None or "" is what it does not say, or what the page chooses."""

    tab: str = TABS[0]
    query: str = ""
    neuron: int | None = None
    found: int | None = None
    heat: bool = True
    basket: Basket = Basket()
    aside: str = ""
    picture: str = WHITE
    seen: str | None = None
    fires: int | None = None
    patch: int | None = None
    dense: bool = True
    question: str = ONE_WORD
    alone: bool = False
    op: str = OPS[0]
    keep: bool = False
    word: str = ""
    live: bool = True
    draw_alone: bool | None = None
    draw_op: str | None = None
    draw_keep: bool | None = None
    draw_word: str | None = None
    draw_live: bool = True
    seeds: int = 2
    seed: int = 0
    steps: int = STEPS
    named: str = ""
    sort: str = "score"
    words: str = ""
    anyway: bool = False


@dataclass(frozen=True)
class Part:
    """One part of an address.

    Attributes:
        name: What it is in a :class:`Link`.
        read: Makes a value of a text, or None if it cannot be; gets the model too.
        default: What an address need not say.
        codes: For a choice: what the address says for what the page says.
        like: The part that this one is like unless it is said.
        typed: Whether it is made bit by bit, by letters or a slider, so that the whole is one step back.
        of: The typed part whose answer this one is: both together are one step back.
    """

    name: str
    read: Callable[[str, Loaded], Any]
    default: str = ""
    codes: Mapping[str, str] | None = None
    like: str | None = None
    typed: bool = False
    of: str | None = None


def _one_of(values: Any) -> Callable[[str, Loaded], str | None]:
    return lambda text, _: text if text in values else None


def _flag(text: str, _: Loaded) -> bool | None:
    return text == "1" if text in ("0", "1") else None


def _number(low: int, high: int) -> Callable[[str, Loaded], int | None]:
    return lambda text, _: _whole(text, low, high)


def _words(limit: int) -> Callable[[str, Loaded], str | None]:
    return lambda text, _: " ".join(text.split()) if len(text) <= limit else None


def _neuron(text: str, loaded: Loaded) -> int | None:
    return _whole(text, 0, len(loaded.pack.neurons) - 1)


def _picture(text: str, loaded: Loaded) -> str | None:
    return text if text == WHITE or is_sample(text, loaded.pack) else None


# All that an address says beside "m", the model. The page's components of the same keys are in its tabs' ``parts``.
PARTS: dict[str, Part] = {
    "tab": Part("tab", _one_of(TABS), TABS[0]),
    "q": Part("query", _words(MAX_QUERY), typed=True),
    "neuron": Part("neuron", _neuron),
    "found": Part("found", _neuron, like="neuron", of="q"),
    "heat": Part("heat", _flag, "1"),
    "b": Part("basket", lambda text, _: _items(text)),
    "unit": Part("unit", _one_of(UNITS), UNITS[0]),
    "aside": Part("aside", lambda text, _: text if len(text) <= MAX_ASIDE else None),
    "pic": Part("picture", _picture, WHITE),
    "seen": Part("seen", _picture),
    "fires": Part("fires", _neuron),
    "patch": Part("patch", _number(0, 100_000)),
    "dense": Part("dense", _flag, "1"),
    "ask": Part("question", _words(MAX_QUESTION), ONE_WORD, typed=True),
    "alone": Part("alone", _flag, "0", WHERE),
    "op": Part("op", _one_of(OPS), OPS[0], HOW),
    "keep": Part("keep", _flag, "0"),
    "word": Part("word", _words(MAX_WORD), typed=True),
    "live": Part("live", _flag, "1"),
    "draw.alone": Part("draw_alone", _flag, codes=WHERE, like="alone"),
    "draw.op": Part("draw_op", _one_of(OPS), codes=HOW, like="op"),
    "draw.keep": Part("draw_keep", _flag, like="keep"),
    "draw.word": Part("draw_word", _words(MAX_WORD), like="word", typed=True),
    "draw.live": Part("draw_live", _flag, "1"),
    "seeds": Part("seeds", _number(1, MAX_SEEDS), "2", typed=True),
    "seed": Part("seed", _number(0, MAX_SEED), "0", typed=True),
    "steps": Part("steps", _number(MIN_STEPS, MAX_STEPS), str(STEPS), typed=True),
    "named": Part("named", _words(MAX_QUERY), typed=True),
    "sort": Part("sort", _one_of(SORTS.values()), "score", SORTS),
    "words": Part("words", lambda text, _: text if len(text) <= MAX_WORDS else None, typed=True),
    "anyway": Part("anyway", _flag, "0"),
}


def as_text(key: str, value: Any) -> str:
    """What an address says for what a component of the page holds; static/address.js does the same."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(int(value))
    codes = PARTS[key].codes if key in PARTS else None
    return (codes or {}).get(value, f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value))


def split_secret(text: str) -> tuple[str, str]:
    """Of ``my-sae~k3f9`` or ``mine~k3f9``, what everybody may know, and what only a visitor's browser has."""
    public, _, secret = text.rpartition("~")
    return (public, secret) if public else (text, "")


def read(parameters: Mapping[str, str], loaded: Loaded) -> tuple[Link, list[str]]:
    """What an address says, and which of the page's own parameters could not be read; others are left alone.

    Of a basket, neurons that this model does not have are left out, and "b" counts as not read.

    Args:
        parameters: The query of the address.
        loaded: The model that it is about.
    """
    found: dict[str, Any] = {}
    bad = []
    for key, part in PARTS.items():
        text = parameters.get(key, part.default)
        if text == part.default and part.like is None:
            continue
        if text == "" and key not in parameters:
            continue
        value = part.read(text, loaded)
        if value is not None:
            found[part.name] = value
        elif part.like not in bad or text != parameters.get(part.like):  # a fault is told once
            bad.append(key)
    pairs, unit = found.pop("basket", ()), found.pop("unit", UNITS[0])
    there = tuple(pair for pair in pairs if pair.neuron < len(loaded.pack.neurons))
    try:
        found["basket"] = Basket(_checked(there, loaded), unit)
    except BadBasket:
        found["basket"] = Basket(unit=unit)
    if len(found["basket"].items) < len(pairs):
        bad.append("b")
    return Link(**found), bad


def texts(link: Link) -> dict[str, str]:
    """All that an address can say of a link, by the keys of :data:`PARTS`; :func:`read` is the way back."""
    values = {**vars(link), "basket": basket_text(link.basket), "unit": link.basket.unit}
    known = {key: values[part.name] for key, part in PARTS.items() if values[part.name] is not None}
    return {key: as_text(key, value) for key, value in known.items()}


def setting(link: Link) -> dict[str, str]:
    """All that an address has to say so that a tab is set up as a link says, and nothing of the other tabs."""
    said = texts(link)
    if link.tab == "inspect":
        said.setdefault("seen", said["pic"])
    for key, part in PARTS.items():
        said.setdefault(key, said[part.like] if part.like else "")
    return {key: said[key] for key in ("tab", *_SET_UP[link.tab])}


_SET_UP = {
    **dict.fromkeys(TABS, ()),
    "inspect": ("seen", "fires", "patch"),
    "find": ("q", "found"),
    "neuron": ("neuron",),
    "llava": ("b", "pic", "ask", "alone", "op", "keep", "word"),
    "draw": ("b", "pic", "draw.alone", "draw.op", "draw.keep", "draw.word", "seeds", "seed", "steps"),
}


def basket_text(basket: Basket) -> str:
    """The neurons of a basket, as an address says them; :func:`basket_of` is the way back."""
    return ",".join(f"{item.neuron}:{item.value:.3f}{'!' if item.muted else ''}" for item in basket.items)


def basket_of(text: Any, loaded: Loaded, unit: Any = None) -> Basket:
    """The basket that the page holds as text.

    Args:
        text: See :func:`basket_text`; None for an empty one.
        loaded: The model.
        unit: In which strengths are shown; None for the usual one.

    Raises:
        BadBasket: If it cannot be.
    """
    items = () if text in (None, "") else _items(str(text))
    if items is None or unit not in (None, *UNITS):
        raise BadBasket("This is no basket.")
    return Basket(_checked(items, loaded), unit or UNITS[0])


def _items(text: str) -> tuple[Item, ...] | None:
    """What a basket's text says, which may make no sense for a model."""
    matches = [_EDIT.fullmatch(part) for part in text.split(",")]
    return tuple(Item(int(m[1]), float(m[2]), m[3] == "!") for m in matches) if all(matches) else None


def _checked(items: tuple[Item, ...], loaded: Loaded) -> tuple[Item, ...]:
    return checked([(item.neuron, _within(item, loaded), item.muted) for item in items], loaded)


def _within(item: Item, loaded: Loaded) -> float:
    """Values are rounded in a link: the ends of a span may lie a thousandth outside."""
    if item.neuron >= len(loaded.pack.neurons):
        return item.value
    span = span_of(loaded, item.neuron)
    outside = not span.low - 0.001 <= item.value <= span.high + 0.001
    return item.value if outside else min(max(item.value, span.low), span.high)


def _whole(text: str, low: int, high: int) -> int | None:
    number = int(text) if re.fullmatch(r"\d{1,10}", text, re.ASCII) else -1
    return number if low <= number <= high else None
