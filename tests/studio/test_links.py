"""Links hold what is on screen, and nothing bad gets in by one."""

import random
from dataclasses import fields
from urllib.parse import parse_qsl, urlencode

import pytest

from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit
from cbsae_hub.studio.basket import UNITS, Basket, range_of
from cbsae_hub.studio.links import (
    HOW,
    MAPS,
    OPS,
    SETS,
    SORTS,
    TABS,
    WHERE,
    Link,
    as_text,
    basket_of,
    basket_text,
    read,
    setting,
    split_secret,
    texts,
)  # fmt: skip
from cbsae_hub.studio.server.refusal import Refused


def parameters(query):
    return dict(parse_qsl(query, keep_blank_values=True))


def test_what_is_written_is_read_again(shipped):
    rng = random.Random(0)
    pictures = ["white", *(f"s{image}" for image in rng.sample(shipped.pack.image_ids(), 9))]
    for _ in range(200):
        neurons = rng.sample(range(len(shipped.pack.neurons)), rng.randint(0, 5))
        spans = [range_of(shipped, neuron) for neuron in neurons]
        edits = tuple(Edit(neuron, round(rng.uniform(span.low, span.high), 3)) for neuron, span in zip(neurons, spans))
        muted = frozenset(neuron for neuron in neurons if rng.random() < 0.3)
        values = {
            "tab": TABS, "query": ["", "pizza", "a & b = c? <x> ü"], "match": [None, 0, 1000],
            "show_heat": [True, False],
            "neuron": [None, 0, 1000], "basket": [Basket(edits, muted, rng.choice(UNITS))],
            "aside": ["", "emoji-sae=3:1.000!"], "image": pictures,
            "inspected_image": [None, *pictures],
            "firing_neuron": [None, 7], "patch": [None, 0, 63],
            "maps": list(MAPS.values()), "inspected_maps": [None, *MAPS.values()],
            "hide_dense": [True, False], "question": ["", ONE_WORD, "What is it? Say & why + how."],
            "word": ["", "pizza slice"], "alone": [True, False], "op": OPS, "keep_error": [True, False],
            "live": [True, False], "draw_word": [None, "", "sun"], "draw_alone": [None, True, False],
            "draw_op": [None, *OPS], "draw_keep_error": [None, True, False], "draw_live": [True, False],
            "seeds": [1, 2, 4], "seed": [0, 2**31 - 1], "steps": [5, 20, 30], "name_filter": ["", "moose"],
            "sort": list(SORTS.values()), "words": ["", "pinata\nchess piece, zeppelin"],
            "anyway": [True, False], "collection_name": ["", "round things"],
            "collection": ["", "17: wheels, or: balls\n3", "no number"],
            "clip_word": [None, "", "sun"], "clip_alone": [None, True, False],
            "clip_op": [None, *OPS], "clip_keep_error": [None, True, False], "strength": [0, 100, 150],
            "sets": list(SETS.values()), "without": [True, False], "tau": [-4, -1, 0.25, 2],
            "first_shows": ["", "a cow"],
            "second_shows": ["", "cow"], "others": ["", "camel, dog"],
        }  # fmt: skip
        link = Link(**{name: rng.choice(list(choices)) for name, choices in values.items()})
        assert set(values) == {field.name for field in fields(Link)}
        assert read(parameters(urlencode(texts(link))), shipped) == (link, [])


def test_the_basket_of_the_page_is_that_of_the_address(shipped):
    basket = Basket((Edit(12, -10.0), Edit(275, 50.0)), frozenset({12}), "absolute")
    assert basket_text(basket) == "12:-10.000!,275:50.000"
    assert basket_of(basket_text(basket), shipped, "absolute") == basket
    assert basket_of("", shipped) == basket_of(None, shipped) == Basket()
    for text in ("x", "3:50,3:50", "3:nan", "9999999:1", "3:101", ",", 7, [], {}, "1:1," * 9 + "1:1", "٣:1"):
        with pytest.raises(Refused):
            basket_of(text, shipped)
    with pytest.raises(Refused):
        basket_of("3:50", shipped, "miles")


def test_a_fault_that_two_parts_have_in_common_is_told_once(shipped):
    assert read({"neuron": "99999999", "found": "99999999"}, shipped)[1] == ["neuron"]
    assert read({"neuron": "99999999", "found": "x"}, shipped)[1] == ["neuron", "found"]
    assert read({"neuron": "3", "found": "99999999"}, shipped)[1] == ["found"]


def test_neurons_that_only_somebody_else_has_are_left_out_and_told(shipped):
    link, bad = read({"b": f"275:50,{len(shipped.pack.neurons)}:20"}, shipped)
    assert [edit.neuron for edit in link.basket.edits] == [275] and bad == ["b"]


def test_a_setting_says_all_of_its_tab_and_nothing_of_others(shipped):
    basket = Basket((Edit(275, 50.0),))
    for tab, wanted in (("llava", "ask"), ("draw", "seeds"), ("find", "q"), ("inspect", "seen"), ("neuron", "neuron")):
        said = setting(Link(tab=tab, basket=basket, image="s1", question="Why?", query="sun", neuron=3))
        assert said["tab"] == tab and said[wanted]
        assert ("b" in said) == (tab in ("llava", "draw")) and "words" not in said and "sort" not in said
    assert setting(Link(tab="draw"))["draw.alone"] == "0"


def test_components_are_spelled_as_addresses_are():
    spelled = {as_text("alone", name) for name in WHERE} | {as_text("op", name) for name in HOW}
    assert spelled == {"0", "1", *OPS}
    assert [as_text("keep", True), as_text("seed", 7.0), as_text("q", None), as_text("m", "x")] == ["1", "7", "", "x"]


def test_secrets_are_told_from_what_everybody_may_know():
    assert split_secret("emoji-cbsae~k3f9") == ("emoji-cbsae", "k3f9") and split_secret("white") == ("white", "")


def test_ends_of_a_span_survive_rounding(shipped):
    for neuron in range(0, len(shipped.pack.neurons), 100):
        span = range_of(shipped, neuron)
        (found,) = basket_of(basket_text(Basket((Edit(neuron, span.high),))), shipped).edits
        assert found.value == pytest.approx(span.high, abs=1e-3) and found.value <= span.high


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tab", "<script>"), ("tab", "start\n"), ("neuron", "9999"), ("neuron", "-1"), ("neuron", "1e3"),
        ("neuron", "٣"), ("b", "3:50,3:50"), ("b", "3:1e9"), ("b", "3:101"), ("b", "3:nan"), ("b", "9999999:1"),
        ("b", "3"), ("b", ","), ("b", "1:1,2:1,3:1,4:1,5:1,6:1"), ("pic", "s99999999"), ("pic", "/etc/passwd"),
        ("pic", "uabc"), ("pic", "http://x"), ("unit", "miles"), ("alone", "yes"), ("op", "scale"), ("seeds", "5"),
        ("steps", "31"), ("steps", "4"), ("seed", "99999999999"), ("q", "x" * 101), ("ask", "x" * 201),
        ("word", "x" * 41), ("ask", "y" * 100_000), ("pic", "mine~abc"), ("seen", "mine~abc"), ("found", "x"),
        ("patch", "-1"), ("sort", "name"), ("named", "x" * 101), ("words", "x" * 900), ("aside", "x" * 9999),
        ("live", "2"), ("list", "x" * 2001), ("list.name", "x" * 61),
        ("anyway", "yes"), ("draw.alone", ""), ("draw.op", "x"), ("heat", "yes"), ("fires", "9999"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_and_left_out(shipped, key, value):
    link, bad = read({key: value, "tab" if key != "tab" else "q": "find"}, shipped)
    assert bad == [key]
    assert link == (Link(query="find") if key == "tab" else Link(tab="find"))


@pytest.mark.parametrize(
    "key", ["utm_source", "fbclid", "gclid", "view", "__theme", "<form action=//e.x>", "tab ", "Q"]
)
def test_what_is_not_of_this_page_is_left_alone(shipped, key):
    assert read({key: "x" * 1000, "tab": "find"}, shipped) == (Link(tab="find"), [])
