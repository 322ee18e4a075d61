"""The basket: what may be in it, in which units, and how it is shown."""

import math
from html.parser import HTMLParser

import numpy as np
import pytest

from cbsae_hub.steering import Edit, Steering
from cbsae_hub.studio.basket import (
    Basket,
    changed,
    checked,
    concept_of,
    dock,
    range_of,
    shown_value,
    watched_word,
)
from cbsae_hub.studio.server.refusal import Refused


class Inputs(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_strengths_reach_twice_what_was_measured(shipped):
    frame = shipped.pack.neurons.frame
    for neuron in (0, 300, len(frame) - 1):
        span = range_of(shipped, neuron)
        assert (span.low, span.high, span.start, span.band) == (-50, 100, 50, (25, 50))
        assert span.p99 == pytest.approx(frame["p99"][neuron])


def test_without_measured_steerability_p99_is_the_measure(shipped, monkeypatch):
    monkeypatch.setattr(type(shipped), "alpha", None)
    p99 = shipped.pack.neurons.frame["p99"]
    assert range_of(shipped, 7).start == pytest.approx(4 * p99[7]) and range_of(shipped, 7).band is None
    dead = shipped.pack.neurons[7]._replace(p99=math.nan)
    monkeypatch.setitem(shipped.pack.neurons._rows, 7, dead)
    assert range_of(shipped, 7).start == pytest.approx(4 * np.nanmedian(p99))
    assert shown_value(3.0, "p99", range_of(shipped, 7)) == 3.0, "no p99, no multiples of it"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(9999, 1.0)], "no neuron 9999"),
        ([(-1, 1.0)], "no neuron"),
        ([(True, 1.0)], "no neuron"),
        ([("3", 1.0)], "no neuron"),
        ([(3.0, 1.0)], "no neuron"),
        ([(3, 1.0), (3, 2.0)], "already"),
        ([(3, 101.0)], "from -50 to 100"),
        ([(3, -51.0)], "from -50 to 100"),
        ([(3, math.nan)], "from -50 to 100"),
        ([(3, math.inf)], "from -50 to 100"),
        ([(3, "1")], "from -50 to 100"),
        ([(3, None)], "from -50 to 100"),
        ([(3, True)], "from -50 to 100"),
        ([(i, 1.0) for i in range(6)], "holds 5"),
    ],
)
def test_what_cannot_be_is_refused(shipped, items, message):
    with pytest.raises(Refused, match=message):
        checked(items, shipped)


def test_what_is_done_to_it(shipped):
    basket = changed(Basket(), shipped, "add", "3")
    assert basket.edits == (Edit(3, 50.0),)
    p99 = shipped.pack.neurons[3].p99
    basket = changed(basket, shipped, "value", 3, "2.5")
    assert basket.edits[0].value == pytest.approx(2.5 * p99)
    basket = changed(basket, shipped, "unit")
    assert basket.unit == "absolute"
    basket = changed(basket, shipped, "value", 3, -20)
    basket = changed(basket, shipped, "add", 4, 12.5)
    basket = changed(basket, shipped, "mute", "3")
    assert basket.edits == (Edit(3, -20.0), Edit(4, 12.5)) and basket.muted == {3}
    assert basket.active == (Edit(4, 12.5),)
    assert changed(basket, shipped, "remove", 3) == Basket((Edit(4, 12.5),), unit="absolute")
    assert changed(basket, shipped, "clear") == Basket(unit="absolute")
    assert changed(basket, shipped, "mute", "3").active == basket.edits
    for act, neuron, value in (
        ("remove", 5, None), ("explode", 3, None), ("value", 3, "much"), ("value", 3, None), ("value", 3, "nan"),
        ("value", 3, 1e9), ("add", 3, None), ("add", "x", None), ("add", None, None), ("add", 99999, None),
    ):  # fmt: skip
        with pytest.raises(Refused):
            changed(basket, shipped, act, neuron, value)


def test_the_ends_of_a_slider_are_within_the_span(shipped):
    """Sliders show rounded multiples: their ends must not be refused."""
    for neuron in range(0, len(shipped.pack.neurons), 50):
        basket = changed(Basket(), shipped, "add", neuron)
        inputs = [a for tag, a in Inputs(dock(shipped, basket)).found if tag == "input"]
        for end in ("min", "max", "value"):
            moved = changed(basket, shipped, "value", neuron, inputs[0][end])
            assert -50 <= moved.edits[0].value <= 100


def test_it_is_shown_with_names_and_both_units(shipped):
    basket = changed(changed(Basket(), shipped, "add", 3), shipped, "mute", 3)
    shown = dock(shipped, basket)
    found = Inputs(shown).found
    inputs = [attributes for tag, attributes in found if tag == "input"]
    p99 = shipped.pack.neurons[3].p99
    assert [a["type"] for a in inputs] == ["range", "number"]
    assert all(float(a["value"]) == round(50 / p99, 2) and "strength of" in a["aria-label"] for a in inputs)
    assert "= 50.0" in shown and f"{50 / p99:.1f} × p99" in shown
    mute = next(a for tag, a in found if a.get("data-act") == "mute")
    assert mute["aria-pressed"] == "true" and mute["data-neuron"] == "3"
    assert "empty: add neurons" in dock(shipped, Basket())


def test_names_are_text(shipped, monkeypatch):
    evil = "<img src=x onerror=alert(1)>\"'"
    row = shipped.pack.neurons[3]._replace(name=evil)
    monkeypatch.setitem(shipped.pack.neurons._rows, 3, row)
    found = Inputs(dock(shipped, Basket((Edit(3, 50.0),)))).found
    pictures = [attributes["src"] for tag, attributes in found if tag == "img"]
    assert pictures == ["neuron/3.webp?m=emoji-cbsae"] * 2 and not any("onerror" in a for _, a in found)


def test_the_watched_word_is_the_strongest_neurons(shipped):
    concept = shipped.sae.d_sae  # the first concept neuron
    basket = Basket((Edit(3, 20.0), Edit(concept, -30.0), Edit(4, 90.0)), frozenset({4}))
    assert watched_word(shipped, basket) == shipped.sae.concepts[0] == concept_of(shipped, concept)
    assert watched_word(shipped, basket, "  red   car ") == "red car"
    assert watched_word(shipped, Basket()) == ""


def test_it_steers_by_what_is_not_muted():
    basket = Basket((Edit(3, 20.0), Edit(4, -8.0), Edit(5, 1.0)), frozenset({5}))
    edits = [Edit(3, 20.0, "add"), Edit(4, -8.0, "add")]
    assert basket.steering(op="add", keep_error=True) == Steering(edits, keep_error=True)
    assert basket.steering(isolate=True, op="add", keep_error=True) == Steering(edits, isolate=True)
    assert basket.steering(op="add").scaled(0.5).edits == (Edit(3, 10.0, "add"), Edit(4, -4.0, "add"))
