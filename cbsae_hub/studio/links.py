"""Links: the state of the page in the query of its address, and back. Nothing is stored on the server.

The whole state of a visit is in components of the page, in the visitor's browser: the address follows them
(static/address.js, by :data:`PARTS`), and :func:`read` is the way back.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import UNITS, Basket, checked, range_of
from cbsae_hub.studio.collection import MAX_NAME, MAX_TEXT
from cbsae_hub.studio.server.experiments import STEPS
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.view.images import WHITE, is_sample

TABS = ("start", "inspect", "find", "neuron", "llava", "draw", "clip", "suppress", "scores", "own", "use")
OPS = ("set", "add")
WHERE = {"In the picture": "0", "Alone, nothing else active": "1"}
HOW = dict(zip(("set the neuron", "add to it"), OPS))
MAPS = {"Patches on which it fires": "patches", "Relevancy: what it owes its activation to": "relevancy"}
SETS = {"Labelled samples": "samples", "Two sets of mine": "own"}
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
MAX_FACTOR = 150  # percent of the basket
MIN_TAU, MAX_TAU, TAU = -4, 2, -1  # powers of ten
MAX_ASIDE = 2000
_EDIT = re.compile(r"(\d{1,7}):(-?\d{1,6}(?:\.\d{1,3})?)(!?)", re.ASCII)


@dataclass(frozen=True)
class AddressPart:
    """One part of an address.

    Attributes:
        name: Attribute of a :class:`Link`.
        read: Returns the value of a text for a model, or None if the text makes no sense.
        default: Text that an address need not have.
        codes: For a choice: the address's text by the page's text.
        like: Key of the part that this one equals where the address does not have it.
        typed: True if the part changes bit by bit, by letters or a slider, so that the whole is one step back.
        of: Key of the typed part that this one is the answer to: both together are one step back.
    """

    name: str
    read: Callable[[str, LoadedModel], Any]
    default: str = ""
    codes: Mapping[str, str] | None = None
    like: str | None = None
    typed: bool = False
    of: str | None = None


def _one_of(values: Any) -> Callable[[str, LoadedModel], str | None]:
    return lambda text, _: text if text in values else None


def _flag(text: str, _: LoadedModel) -> bool | None:
    return text == "1" if text in ("0", "1") else None


def _number(low: int, high: int) -> Callable[[str, LoadedModel], int | None]:
    return lambda text, _: _whole(text, low, high)


def _decimal(low: float, high: float) -> Callable[[str, LoadedModel], float | None]:
    def read_decimal(text: str, _: LoadedModel) -> float | None:
        number = float(text) if re.fullmatch(r"-?\d(?:\.\d{1,2})?", text, re.ASCII) else math.nan
        return number if low <= number <= high else None

    return read_decimal


def _words(limit: int) -> Callable[[str, LoadedModel], str | None]:
    return lambda text, _: " ".join(text.split()) if len(text) <= limit else None


def _neuron(text: str, model: LoadedModel) -> int | None:
    return _whole(text, 0, len(model.pack.neurons) - 1)


def _image(text: str, model: LoadedModel) -> str | None:
    return text if text == WHITE or is_sample(text, model.pack) else None


def _part(key: str, usual: Any, read: Callable[[str, LoadedModel], Any], **options: Any) -> Any:
    """Returns a field of a :class:`Link` with its usual value, and all but the name of its :class:`AddressPart`."""
    default = str(int(usual)) if isinstance(usual, bool) else str("" if usual is None else usual)
    return field(default=usual, metadata={key: {"read": read, "default": default, **options}})


@dataclass(frozen=True)
class Link:
    """The state of the page that a link can hold; None or "" where the link says nothing or the page chooses."""

    tab: str = _part("tab", TABS[0], _one_of(TABS))
    query: str = _part("q", "", _words(MAX_QUERY), typed=True)
    neuron: int | None = _part("neuron", None, _neuron)
    match: int | None = _part("found", None, _neuron, like="neuron", of="q")
    show_heat: bool = _part("heat", True, _flag)
    maps: str = _part("map", "patches", _one_of(MAPS.values()), codes=MAPS)
    basket: Basket = field(
        default=Basket(),
        metadata={
            "b": {"read": lambda text, _: _entries(text)},
            "unit": {"name": "unit", "read": _one_of(UNITS), "default": UNITS[0]},
        },
    )
    aside: str = _part("aside", "", lambda text, _: text if len(text) <= MAX_ASIDE else None)
    image: str = _part("pic", WHITE, _image)
    inspected_image: str | None = _part("seen", None, _image)
    firing_neuron: int | None = _part("fires", None, _neuron)
    patch: int | None = _part("patch", None, _number(0, 100_000))
    hide_dense: bool = _part("dense", True, _flag)
    inspected_maps: str | None = _part("seen.map", None, _one_of(MAPS.values()), codes=MAPS, like="map")
    question: str = _part("ask", ONE_WORD, _words(MAX_QUESTION), typed=True)
    alone: bool = _part("alone", False, _flag, codes=WHERE)
    op: str = _part("op", OPS[0], _one_of(OPS), codes=HOW)
    keep_error: bool = _part("keep", False, _flag)
    word: str = _part("word", "", _words(MAX_WORD), typed=True)
    live: bool = _part("live", True, _flag)
    draw_alone: bool | None = _part("draw.alone", None, _flag, codes=WHERE, like="alone")
    draw_op: str | None = _part("draw.op", None, _one_of(OPS), codes=HOW, like="op")
    draw_keep_error: bool | None = _part("draw.keep", None, _flag, like="keep")
    draw_word: str | None = _part("draw.word", None, _words(MAX_WORD), like="word", typed=True)
    draw_live: bool = _part("draw.live", True, _flag)
    seeds: int = _part("seeds", 2, _number(1, MAX_SEEDS), typed=True)
    seed: int = _part("seed", 0, _number(0, MAX_SEED), typed=True)
    steps: int = _part("steps", STEPS, _number(MIN_STEPS, MAX_STEPS), typed=True)
    clip_alone: bool | None = _part("clip.alone", None, _flag, codes=WHERE, like="alone")
    clip_op: str | None = _part("clip.op", None, _one_of(OPS), codes=HOW, like="op")
    clip_keep_error: bool | None = _part("clip.keep", None, _flag, like="keep")
    clip_word: str | None = _part("clip.word", None, _words(MAX_WORD), like="word", typed=True)
    strength: int = _part("clip.x", 100, _number(0, MAX_FACTOR), typed=True)
    sets: str = _part("sets", "samples", _one_of(SETS.values()), codes=SETS)
    without: bool = _part("without", False, _flag)
    tau: float = _part("tau", TAU, _decimal(MIN_TAU, MAX_TAU), typed=True)
    first_shows: str = _part("first", "", _words(MAX_WORD), typed=True)
    second_shows: str = _part("second", "", _words(MAX_WORD), typed=True)
    others: str = _part("others", "", _words(MAX_QUERY), typed=True)
    name_filter: str = _part("named", "", _words(MAX_QUERY), typed=True)
    sort: str = _part("sort", "score", _one_of(SORTS.values()), codes=SORTS)
    collection_name: str = _part("list.name", "", _words(MAX_NAME), typed=True)
    collection: str = _part("list", "", lambda text, _: text if len(text) <= MAX_TEXT else None, typed=True)
    words: str = _part("words", "", lambda text, _: text if len(text) <= MAX_WORDS else None, typed=True)
    anyway: bool = _part("anyway", False, _flag)


# All that an address says beside "m", the model. The components of the same keys are in the tabs' ``parts``.
PARTS: dict[str, AddressPart] = {
    key: AddressPart(**{"name": part.name, **options})
    for part in fields(Link)
    for key, options in part.metadata.items()
}


def as_text(key: str, value: Any) -> str:
    """Returns the text of an address for the value of a component; static/address.js does the same."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(int(value))
    codes = PARTS[key].codes if key in PARTS else None
    return (codes or {}).get(value, f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value))


def split_secret(text: str) -> tuple[str, str]:
    """Splits ``my-sae~k3f9`` or ``mine~k3f9`` into the part that everybody may know, and the visitor's own."""
    public, _, secret = text.rpartition("~")
    return (public, secret) if public else (text, "")


def read(parameters: Mapping[str, str], model: LoadedModel) -> tuple[Link, list[str]]:
    """Reads an address; parameters that are not the page's own are left alone.

    Of a basket, neurons that this model does not have are left out, and "b" counts as not read.

    Returns:
        The link, and the keys of the page's own parameters that could not be read.
    """
    values: dict[str, Any] = {}
    bad = []
    for key, part in PARTS.items():
        text = parameters.get(key, part.default)
        if text == part.default and part.like is None:
            continue
        if text == "" and key not in parameters:
            continue
        value = part.read(text, model)
        if value is not None:
            values[part.name] = value
        elif part.like not in bad or text != parameters.get(part.like or ""):  # a fault is told once
            bad.append(key)
    entries, unit = values.pop("basket", ()), values.pop("unit", UNITS[0])
    try:
        basket = _basket([entry for entry in entries if entry[0] < len(model.pack.neurons)], unit, model)
    except Refused:
        basket = Basket(unit=unit)
    if len(basket.edits) < len(entries):
        bad.append("b")
    return Link(**values, basket=basket), bad


def texts(link: Link) -> dict[str, str]:
    """Returns all texts of an address for a link, by the keys of :data:`PARTS`; :func:`read` is the way back."""
    values = {**vars(link), "basket": basket_text(link.basket), "unit": link.basket.unit}
    return {key: as_text(key, values[part.name]) for key, part in PARTS.items() if values[part.name] is not None}


def setting(link: Link) -> dict[str, str]:
    """Returns the texts of an address that set a tab up like a link, and nothing of the other tabs."""
    parts = texts(link)
    if link.tab == "inspect":
        parts.setdefault("seen", parts["pic"])
    for key, part in PARTS.items():
        parts.setdefault(key, parts[part.like] if part.like else "")
    return {key: parts[key] for key in ("tab", *_SET_UP[link.tab])}


_SET_UP: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TABS, ()),
    "inspect": ("seen", "fires", "patch"),
    "find": ("q", "found"),
    "neuron": ("neuron",),
    "llava": ("b", "pic", "ask", "alone", "op", "keep", "word"),
    "clip": ("b", "pic", "clip.alone", "clip.op", "clip.keep", "clip.word", "clip.x"),
    "suppress": ("sets", "without", "tau"),
    "draw": ("b", "pic", "draw.alone", "draw.op", "draw.keep", "draw.word", "seeds", "seed", "steps"),
}


def basket_text(basket: Basket) -> str:
    """Returns the neurons of a basket as in an address; :func:`basket_of` is the way back."""
    return ",".join(
        f"{edit.neuron}:{edit.value:.3f}{'!' if edit.neuron in basket.muted else ''}" for edit in basket.edits
    )


def basket_of(text: Any, model: LoadedModel, unit: Any = None) -> Basket:
    """Returns the basket that the page holds as text, see :func:`basket_text`; of None or "" an empty one.

    Raises:
        Refused: If the text, or the unit in which strengths are shown, makes no sense.
    """
    entries = () if text in (None, "") else _entries(str(text))
    if entries is None or unit not in (None, *UNITS):
        raise Refused("This is no basket.")
    return _basket(entries, unit or UNITS[0], model)


def _entries(text: str) -> tuple[tuple[int, float, bool], ...] | None:
    """Returns neuron, value and whether it is muted, which may make no sense for a model; None for other text."""
    matches = [match for part in text.split(",") if (match := _EDIT.fullmatch(part))]
    return tuple((int(m[1]), float(m[2]), m[3] == "!") for m in matches) if len(matches) > text.count(",") else None


def _basket(entries: Sequence[tuple[int, float, bool]], unit: str, model: LoadedModel) -> Basket:
    pairs = [
        # Values are rounded in a link, and may lie a thousandth outside; checked() names neurons that do not exist.
        (neuron, value if neuron >= len(model.pack.neurons) else range_of(model, neuron).within(value, slack=0.001))
        for neuron, value, _ in entries
    ]
    return Basket(checked(pairs, model), frozenset(neuron for neuron, _, muted in entries if muted), unit)


def _whole(text: str, low: int, high: int) -> int | None:
    number = int(text) if re.fullmatch(r"\d{1,10}", text, re.ASCII) else -1
    return number if low <= number <= high else None
