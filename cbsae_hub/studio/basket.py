"""The steering basket: up to five neurons with their strengths, which all tabs share.

What a browser sends of it is checked here, whoever asks: the page, a link or a public endpoint.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from cbsae_hub.neurons.chance import marked
from cbsae_hub.neurons.strength import usual_strength
from cbsae_hub.steering import Edit, Steering
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.view.html import neuron_title
from cbsae_hub.studio.view.templates import template

MAX_NEURONS = 5
UNITS = ("p99", "absolute")


@dataclass(frozen=True)
class Basket:
    """Edits of neurons, in the order in which the neurons were added.

    Attributes:
        edits: Each sets one neuron, by its number, to a value in units of latents.
        muted: Numbers of the neurons that are left alone for now.
        unit: Unit in which strengths are shown.
    """

    edits: tuple[Edit, ...] = ()
    muted: frozenset[int] = frozenset()
    unit: str = UNITS[0]

    @property
    def active(self) -> tuple[Edit, ...]:
        """The edits that are not muted."""
        return tuple(edit for edit in self.edits if edit.neuron not in self.muted)

    def steering(self, isolate: bool = False, op: str = "set", keep_error: bool = False) -> Steering:
        """Returns the steering by all active edits.

        Args:
            isolate: Whether all other neurons are inactive; else the edits change the activations that the SAE sees.
            op: "set" or "add".
            keep_error: Whether the SAE's reconstruction error is added back, so that strength 0 is the model as it
                is; without effect if ``isolate``. The papers, and the scores, leave the error out.
        """
        edits = [replace(edit, op=op) for edit in self.active]
        return Steering(edits, isolate=isolate, keep_error=keep_error and not isolate)


@dataclass(frozen=True)
class StrengthRange:
    """Strengths of one neuron, in units of latents.

    Attributes:
        p99: The neuron's 99th percentile, the unit in which strengths are shown; NaN for neurons that never fire.
        low: Smallest strength.
        high: Largest strength.
        band: Recommended strengths: from half the strength at which steerability was measured up to it; None if it
            was not measured.
        start: Strength that a neuron has at first.
    """

    p99: float
    low: float
    high: float
    band: tuple[float, float] | None
    start: float

    def within(self, value: float, slack: float) -> float:
        """Moves a value that was rounded, and lies at most ``slack`` outside, into the range."""
        near = self.low - slack <= value <= self.high + slack
        return min(max(value, self.low), self.high) if near else value

    def in_p99(self, unit: str) -> bool:
        """Returns whether strengths are shown as multiples of p99: if that is the unit, and there is one."""
        return unit == "p99" and not math.isnan(self.p99)


def range_of(model: LoadedModel, neuron: int) -> StrengthRange:
    """Returns the strengths of a neuron; docs/space.md says what the band rests on."""
    p99 = float(model.pack.neurons[neuron].p99)
    usual = usual_strength(p99, model.alpha, model.pack.neurons.frame["p99"])
    band = (usual / 2, usual) if model.alpha else None
    return StrengthRange(p99 if p99 > 0 else math.nan, -usual, 2 * usual, band, usual)


def index_of(value: Any) -> int:
    """Returns the number of a neuron or a patch that a browser has sent; -1 for anything else."""
    return int(value) if str(value).isdecimal() else -1


def checked(pairs: Iterable[tuple[Any, Any]], model: LoadedModel) -> tuple[Edit, ...]:
    """Returns edits of neurons that exist, with strengths that make sense, of pairs of whatever types were sent.

    Raises:
        Refused: If a neuron does not exist or comes twice, there are too many, or a value is no finite number within
            the neuron's range.
    """
    edits: dict[int, Edit] = {}
    for neuron, value in pairs:
        if not isinstance(neuron, int) or isinstance(neuron, bool) or not 0 <= neuron < len(model.pack.neurons):
            raise Refused(f"There is no neuron {str(neuron)[:20]}: this model has {len(model.pack.neurons)}.")
        if neuron in edits:
            raise Refused(f"Neuron {neuron} is in the basket already.")
        span = range_of(model, neuron)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not span.low <= value <= span.high:
            raise Refused(
                f"Neuron {neuron} can be set to values from {span.low:g} to {span.high:g}, not to {str(value)[:20]}."
            )
        edits[neuron] = Edit(neuron, float(value))
    if len(edits) > MAX_NEURONS:
        raise Refused(f"The basket holds {MAX_NEURONS} neurons. Take one out first.")
    return tuple(edits.values())


def changed(basket: Basket, model: LoadedModel, act: str, neuron: Any = None, value: Any = None) -> Basket:
    """Returns the basket after an act of the visitor.

    Args:
        basket: The basket before.
        model: The model.
        act: "add", "remove", "mute", "value", "unit" or "clear".
        neuron: Number of a neuron, perhaps as text; of the first four acts.
        value: New strength, in the basket's unit for "value"; for "add" in units of latents, or None for the usual one.

    Raises:
        Refused: See :func:`checked`; or if the act or the neuron is not known.
    """
    if act == "clear":
        return replace(basket, edits=(), muted=frozenset())
    if act == "unit":
        return replace(basket, unit=UNITS[1 - UNITS.index(basket.unit)])
    number = index_of(neuron)
    values: dict[Any, Any] = {edit.neuron: edit.value for edit in basket.edits}
    if act == "add":
        # Of a neuron that does not exist, checked() says so.
        exists = 0 <= number < len(model.pack.neurons)
        start = value if value is not None or not exists else range_of(model, number).start
        return replace(basket, edits=checked([*values.items(), (number, start)], model))
    if number not in values or act not in ("remove", "mute", "value"):
        raise Refused("This neuron is not in the basket.")
    if act == "mute":
        return replace(basket, muted=basket.muted ^ {number})
    if act == "remove":
        edits = tuple(edit for edit in basket.edits if edit.neuron != number)
        return replace(basket, edits=edits, muted=basket.muted - {number})
    values[number] = _from_unit(value, basket.unit, range_of(model, number))
    return replace(basket, edits=checked(values.items(), model))


def watched_word(model: LoadedModel, basket: Basket, typed: Any = "") -> str:
    """Returns the word whose probability is shown: what was typed, or the name of the strongest neuron, or ""."""
    if word := " ".join(str(typed or "").split())[:40]:
        return word
    strongest_first = sorted(basket.active, key=lambda edit: -abs(edit.value))
    names = (concept_of(model, int(edit.neuron)) for edit in strongest_first)
    return next((name for name in names if name), "")


def concept_of(model: LoadedModel, neuron: int) -> str | None:
    """Returns what a neuron stands for: the concept that a concept neuron was trained for, else the name."""
    row = model.pack.neurons[neuron]
    return row.designated if row.kind == "cb" else row.name


def shown_value(value: float, unit: str, span: StrengthRange) -> float:
    """Returns a strength in the unit in which it is shown: multiples of p99 where there is one."""
    return value / span.p99 if span.in_p99(unit) else value


def _from_unit(typed: Any, unit: str, span: StrengthRange) -> Any:
    try:
        value = float(typed)
    except (TypeError, ValueError):
        return typed  # which checked() refuses
    # What is shown is rounded: the ends of a slider may lie a little outside.
    return span.within(value * span.p99 if span.in_p99(unit) else value, slack=0.1)


def dock(model: LoadedModel, basket: Basket) -> Markup:
    """Returns the basket as HTML; static/dock.js makes it work."""
    rows = [_row(model, basket, edit) for edit in basket.edits]
    unit = "× p99" if basket.unit == "p99" else "absolute"
    return template("basket").dock(rows, len(rows), MAX_NEURONS, unit)


def _row(model: LoadedModel, basket: Basket, edit: Edit) -> dict[str, Any]:
    neuron = int(edit.neuron)
    span, title = range_of(model, neuron), neuron_title(model.pack.neurons[neuron])
    low, high, value = (round(shown_value(x, basket.unit, span), 2) for x in (span.low, span.high, edit.value))
    band = None
    if span.band:
        start, end = (100 * (edge - span.low) / (span.high - span.low) for edge in span.band)
        band = (f"{start:.1f}", f"{end - start:.1f}")
    return {
        "neuron": neuron,
        "icon": model.icon(neuron),
        "title": title,
        "concept": marked(concept_of(model, neuron) or f"#{neuron}", model.pack.neurons[neuron]),
        "muted": neuron in basket.muted,
        "low": low,
        "high": high,
        "value": value,
        "unit": " × p99" if span.in_p99(basket.unit) else "",
        "label": f"strength of {title}, in {'multiples of p99' if span.in_p99(basket.unit) else 'absolute units'}",
        "strength": _spelled(edit.value, basket.unit, span),
        "other": _spelled(edit.value, "absolute" if basket.unit == "p99" else "p99", span),
        "band": band,
    }


def _spelled(value: float, unit: str, span: StrengthRange) -> str:
    return f"{shown_value(value, unit, span):.1f}" + (" × p99" if span.in_p99(unit) else "")
