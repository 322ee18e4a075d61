"""The steering basket: up to five neurons with their strengths, which all tabs share.

What a browser sends of it is checked here, whoever asks: the page, a link or a public endpoint.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cbsae_hub.steering import Edit
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.view.html import attribute, escape, neuron_title

MAX_NEURONS = 5
UNITS = ("p99", "absolute")
WITHOUT_ALPHA = 4.0  # times p99: where steerability was not measured, what a neuron is set to at first


class BadBasket(ValueError):
    """Neurons or strengths that cannot be; the message is for whoever sent them."""


@dataclass(frozen=True)
class Item:
    """A neuron in the basket and what it is set to, in units of latents."""

    neuron: int
    value: float
    muted: bool = False


@dataclass(frozen=True)
class Basket:
    """The neurons in the order in which they came, and the unit in which strengths are shown."""

    items: tuple[Item, ...] = ()
    unit: str = UNITS[0]

    @property
    def edits(self) -> tuple[tuple[int, float], ...]:
        """Neurons that are not muted, and their values."""
        return tuple((item.neuron, item.value) for item in self.items if not item.muted)


@dataclass(frozen=True)
class Span:
    """Strengths of one neuron, in units of latents.

    Attributes:
        p99: Its 99th percentile, the unit in which strengths are shown; NaN for neurons that never fire.
        low: Smallest strength.
        high: Largest strength.
        band: Where to look first: from half the strength at which steerability was measured up to it; None if it was
            not measured.
        start: What a neuron is set to at first.
    """

    p99: float
    low: float
    high: float
    band: tuple[float, float] | None
    start: float


def span_of(loaded: Loaded, neuron: int) -> Span:
    """The strengths of a neuron; docs/space.md tells what the band rests on."""
    p99 = float(loaded.pack.neurons[neuron].p99)
    usual = loaded.alpha or WITHOUT_ALPHA * (p99 if p99 > 0 else np.nanmedian(loaded.pack.neurons.frame["p99"]))
    band = (usual / 2, usual) if loaded.alpha else None
    return Span(p99 if p99 > 0 else math.nan, -usual, 2 * usual, band, usual)


def checked(items: Iterable[Any], loaded: Loaded) -> tuple[Item, ...]:
    """Items of neurons that exist, with strengths that make sense.

    Args:
        items: ``(neuron, value, muted)`` each, in whatever types they were sent.
        loaded: The model.

    Raises:
        BadBasket: If a neuron does not exist or comes twice, there are too many, or a value is no finite number
            within the neuron's span.
    """
    found: list[Item] = []
    for neuron, value, muted in items:
        if not isinstance(neuron, int) or isinstance(neuron, bool) or not 0 <= neuron < len(loaded.pack.neurons):
            raise BadBasket(f"There is no neuron {str(neuron)[:20]}: this model has {len(loaded.pack.neurons)}.")
        if neuron in (item.neuron for item in found):
            raise BadBasket(f"Neuron {neuron} is in the basket already.")
        span = span_of(loaded, neuron)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not span.low <= value <= span.high:
            raise BadBasket(
                f"Neuron {neuron} can be set to values from {span.low:g} to {span.high:g}, not to {str(value)[:20]}."
            )
        found.append(Item(neuron, float(value), bool(muted)))
    if len(found) > MAX_NEURONS:
        raise BadBasket(f"The basket holds {MAX_NEURONS} neurons. Take one out first.")
    return tuple(found)


def changed(basket: Basket, loaded: Loaded, act: str, neuron: Any = None, value: Any = None) -> Basket:
    """The basket after something was done to it.

    Args:
        basket: As it was.
        loaded: The model.
        act: "add", "remove", "mute", "value", "unit" or "clear".
        neuron: Of the first four: its number, perhaps as text.
        value: Of "value": in the basket's unit; of "add": in units of latents, or None for the usual strength.

    Raises:
        BadBasket: See :func:`checked`; or if the act or the neuron is not known.
    """
    if act == "clear":
        return replace(basket, items=())
    if act == "unit":
        return replace(basket, unit=UNITS[1 - UNITS.index(basket.unit)])
    number = int(neuron) if str(neuron).isdecimal() else -1
    items = [(item.neuron, item.value, item.muted) for item in basket.items]
    place = next((i for i, item in enumerate(items) if item[0] == number), None)
    if act == "add":
        # Of a neuron that does not exist, checked() says so.
        exists = 0 <= number < len(loaded.pack.neurons)
        start = value if value is not None or not exists else span_of(loaded, number).start
        return replace(basket, items=checked([*items, (number, start, False)], loaded))
    if place is None or act not in ("remove", "mute", "value"):
        raise BadBasket("This neuron is not in the basket.")
    if act == "remove":
        del items[place]
    elif act == "mute":
        items[place] = (number, items[place][1], not items[place][2])
    else:
        items[place] = (number, _from_unit(value, basket.unit, span_of(loaded, number)), items[place][2])
    return replace(basket, items=checked(items, loaded))


def edits_of(pairs: Sequence[tuple[int, float]], op: str, factor: float = 1.0) -> list[Edit]:
    """Edits of neurons at a multiple of their values."""
    return [Edit(neuron, factor * value, op) for neuron, value in pairs]


def watched_word(loaded: Loaded, basket: Basket, typed: Any = "") -> str:
    """The word whose probability is shown: what was typed, or the name of the strongest neuron; "" for none."""
    if word := " ".join(str(typed or "").split())[:40]:
        return word
    pairs = sorted(basket.edits, key=lambda pair: -abs(pair[1]))
    names = (concept_of(loaded, neuron) for neuron, _ in pairs)
    return next((name for name in names if name), "")


def concept_of(loaded: Loaded, neuron: int) -> str | None:
    """What a neuron stands for: what it was trained for, if it is a concept neuron, else its name."""
    row = loaded.pack.neurons[neuron]
    return row.designated if row.kind == "cb" else row.name


def shown_value(value: float, unit: str, span: Span) -> float:
    """A strength in the unit in which it is shown: multiples of p99 where there is one."""
    return value / span.p99 if unit == "p99" and not math.isnan(span.p99) else value


def _from_unit(shown: Any, unit: str, span: Span) -> Any:
    try:
        value = float(shown)
    except (TypeError, ValueError):
        return shown  # which checked() refuses
    value = value * span.p99 if unit == "p99" and not math.isnan(span.p99) else value
    # What is shown is rounded: the ends of a slider may lie a little outside.
    return min(max(value, span.low), span.high) if span.low - 0.1 <= value <= span.high + 0.1 else value


def dock(loaded: Loaded, basket: Basket) -> str:
    """The basket as HTML; static/dock.js makes it work."""
    rows = "".join(_row(loaded, basket, item) for item in basket.items)
    count = len(basket.items)
    chips = " ".join(
        f'<span class="cb-chip{" cb-muted" if item.muted else ""}">'
        f"{escape(concept_of(loaded, item.neuron) or f'#{item.neuron}')} "
        f"{_spelled(item.value, basket.unit, span_of(loaded, item.neuron))}</span>"
        for item in basket.items
    )
    said = chips or '<span class="cb-hint">empty: add neurons with “Add to basket”</span>'
    unit = "× p99" if basket.unit == "p99" else "absolute"
    off = "" if count else " disabled"
    return (
        f'<section class="cb-dock-inner" aria-label="Steering basket" data-count="{count}">'
        '<div class="cb-dock-bar"><button type="button" class="cb-dock-toggle" data-toggle aria-expanded="false">'
        f'<strong>Steering basket</strong> <span class="cb-count">{count} of {MAX_NEURONS}</span></button>'
        f'<span class="cb-chips">{said}</span>'
        f'<span class="cb-dock-actions"><button type="button" data-act="unit" title="the unit of strengths: multiples '
        f"of the neuron's 99th percentile, or values of the latent\">Unit: {unit}</button>"
        f'<button type="button" data-act="clear"{off}>Empty</button>'
        '<button type="button" data-undo disabled title="takes back what the basket was last changed by">Undo</button>'
        '<button type="button" data-link>Copy link</button></span></div>'
        f'<div class="cb-dock-rows">{rows}</div><p class="cb-dock-said" role="status" aria-live="polite"></p></section>'
    )


def _spelled(value: float, unit: str, span: Span) -> str:
    shown = shown_value(value, unit, span)
    return f"{shown:.1f} × p99" if unit == "p99" and not math.isnan(span.p99) else f"{shown:.1f}"


def _row(loaded: Loaded, basket: Basket, item: Item) -> str:
    span, neuron = span_of(loaded, item.neuron), item.neuron
    low, high, value = (round(shown_value(x, basket.unit, span), 2) for x in (span.low, span.high, item.value))
    title = neuron_title(loaded.pack.neurons[neuron])
    other = "absolute" if basket.unit == "p99" else "p99"
    numbers = f'min="{low}" max="{high}" step="any" value="{value}"'
    in_p99 = basket.unit == "p99" and not math.isnan(span.p99)
    label = attribute(f"strength of {title}, in {'multiples of p99' if in_p99 else 'absolute units'}")
    band = ""
    if span.band:
        left, right = (100 * (edge - span.low) / (span.high - span.low) for edge in span.band)
        band = (
            f'<span class="cb-band" style="left:{left:.1f}%;width:{right - left:.1f}%" title="recommended: from half '
            'the strength at which steerability was measured up to it"></span>'
        )
    state = "true" if item.muted else "false"
    return (
        f'<div class="cb-row{" cb-muted" if item.muted else ""}" data-neuron="{neuron}" '
        f'data-unit="{" × p99" if in_p99 else ""}">'
        f'<button type="button" class="cb-name" data-act="open" data-neuron="{neuron}" title="open its page">'
        f"{escape(title)}</button>"
        f'<span class="cb-track">{band}<input type="range" {numbers} aria-label="{label}" '
        f'aria-valuetext="{attribute(_spelled(item.value, basket.unit, span))}"></span>'
        f'<input type="number" {numbers} aria-label="{label}">'
        f'<span class="cb-other">= {attribute(_spelled(item.value, other, span))}</span>'
        f'<button type="button" data-act="mute" data-neuron="{neuron}" aria-pressed="{state}">Mute</button>'
        f'<button type="button" data-act="remove" data-neuron="{neuron}" aria-label="remove {attribute(title)}">'
        "Remove</button></div>"
    )
