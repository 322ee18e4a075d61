"""Links hold what is on screen, and nothing bad gets in by one."""

import random
from urllib.parse import parse_qsl

import pytest

from cbsae_hub.studio.basket import Basket, Item, span_of
from cbsae_hub.studio.links import KEYS, OPS, TABS, Link, model_of, read, write


def parameters(query):
    return dict(parse_qsl(query, keep_blank_values=True))


def test_what_is_written_is_read_again(shipped):
    rng = random.Random(0)
    for _ in range(200):
        neurons = rng.sample(range(len(shipped.pack.neurons)), rng.randint(0, 5))
        spans = [span_of(shipped, neuron) for neuron in neurons]
        items = tuple(
            Item(neuron, round(rng.uniform(span.low, span.high), 3), rng.random() < 0.3)
            for neuron, span in zip(neurons, spans)
        )
        link = Link(
            tab=rng.choice([None, *TABS]),
            query=rng.choice(["", "pizza", "a & b = c? <x> ü"]),
            neuron=rng.choice([None, 0, 1256]),
            basket=Basket(items, rng.choice(["p99", "absolute"]) if items else "p99"),
            picture=rng.choice([None, "white", f"s{rng.choice(shipped.pack.image_ids())}"]),
            question=rng.choice(["", "What is it? Say & why + how."]),
            word=rng.choice(["", "pizza slice"]),
            alone=rng.choice([None, True, False]),
            op=rng.choice([None, *OPS]),
            keep=rng.choice([None, True, False]),
            seeds=rng.choice([None, 1, 4]),
            seed=rng.choice([None, 0, 2**31 - 1]),
            steps=rng.choice([None, 5, 30]),
        )
        assert read(parameters(write(link)), shipped) == (link, [])


def test_ends_of_a_span_survive_rounding(shipped):
    for neuron in range(0, 1257, 100):
        span = span_of(shipped, neuron)
        link = Link(basket=Basket((Item(neuron, span.high),)))
        (found,) = read(parameters(write(link)), shipped)[0].basket.items
        assert found.value == pytest.approx(span.high, abs=1e-3) and found.value <= span.high


def test_uploads_stay_out_of_links(shipped):
    assert "pic" not in write(Link(tab="llava", picture="uSecretKey"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tab", "<script>"), ("tab", "start\n"), ("neuron", "1257"), ("neuron", "-1"), ("neuron", "1e3"),
        ("neuron", "٣"), ("b", "3:50,3:50"), ("b", "3:1e9"), ("b", "3:101"), ("b", "3:nan"), ("b", "9999999:1"),
        ("b", "3"), ("b", ","), ("b", "1:1,2:1,3:1,4:1,5:1,6:1"), ("pic", "s99999999"), ("pic", "/etc/passwd"),
        ("pic", "uabc"), ("pic", "http://x"), ("unit", "miles"), ("alone", "yes"), ("op", "scale"), ("seeds", "5"),
        ("steps", "31"), ("steps", "4"), ("seed", "99999999999"), ("q", "x" * 101), ("ask", "x" * 201),
        ("word", "x" * 41), ("ask", "y" * 100_000),
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


def test_every_parameter_that_is_written_is_known(shipped):
    whole = Link(
        "m", "find", "q", 1, Basket((Item(1, 1.0),), "absolute"), "white", "ask", "w", True, "add", True, 1, 1, 5
    )
    assert parameters(write(whole)).keys() == KEYS | {"m"}


def test_models_are_those_of_the_allow_list(serving, shipped):
    assert model_of({"m": "emoji-sae"}, serving.models) == "emoji-sae"
    for bad in ({"m": "/etc"}, {"m": "../hub/emoji-dino"}, {"m": "someone/else"}, {}):
        assert model_of(bad, serving.models) is None
    assert read({"m": "whatever", "__theme": "dark", "__sign": "x"}, shipped) == (Link(), [])
