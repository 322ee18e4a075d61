"""Which names are marked, and which neurons come first."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cbsae_hub.neurons.chance import MARK, by_chance, clear, first_to_show, marked, telling
from cbsae_hub.scoring.report import SURE


def frame_of(*rows):
    columns = ("neuron", "kind", "name", "score", "null_percentile", "status", "monosemanticity", "density")
    return pd.DataFrame([dict(zip(columns, (number, *row, 0.1))) for number, row in enumerate(rows)])


ROWS = [
    ("sae", "cat", 3.0, 0.94, "alive", 0.5),  # no better than chance
    ("sae", "dog", 2.0, 0.99, "dense", 0.9),  # everywhere
    ("sae", None, 0.0, 0.0, "dead", np.nan),
    ("sae", "cow", 1.0, SURE, "alive", 0.7),
    ("sae", "hen", 1.5, 1.0, "alive", 0.6),
    ("cb", "fox", 1.2, 0.97, "dense", 0.1),  # grades every patch
    ("sae", "owl", 9.0, np.nan, "alive", 0.8),  # nobody measured it
    ("sae", "elk", 4.0, 1.0, "rare", 1.0),  # on hardly any token
]


def test_those_that_tell_something_come_first_best_first():
    assert telling(frame_of(*ROWS))["name"].tolist() == ["hen", "fox", "cow"]
    assert first_to_show(frame_of(*ROWS), 100)["name"].tolist() == ["hen", "fox", "cow"]
    least = telling(frame_of(*ROWS))["score"].iloc[-1]
    assert telling(frame_of(*ROWS), least)["name"].tolist() == ["hen", "fox"], "better than nonsense, too"
    assert first_to_show(frame_of(*ROWS), 100, 100.0)["name"].tolist() != ["hen", "fox", "cow"]


def test_without_a_sure_name_the_most_monosemantic_comes_first():
    assert first_to_show(frame_of(ROWS[0], ROWS[1], ROWS[2], ROWS[6]), 100)["name"].tolist() == ["owl", "cat"]
    nameless = frame_of(*((kind, None, np.nan, 0.0, status, ms) for kind, _, _, _, status, ms in ROWS))
    assert first_to_show(nameless, 100)["neuron"].tolist() == [6, 3, 4, 0, 5]
    assert len(first_to_show(frame_of(ROWS[2]), 100)) == 1, "a dead one, if there are no others"


def test_monosemanticity_of_two_or_three_pictures_says_nothing():
    frame = frame_of(ROWS[0], ROWS[3]).assign(name=None, density=[3 / 240, 12 / 240], monosemanticity=[1.0, 0.4])
    assert clear(frame, 240)["neuron"].tolist() == [1]
    assert clear(frame.assign(density=6 / 240), 240)["neuron"].tolist() == [0, 1], "as many as a report shows"


@pytest.mark.parametrize(("row", "expected"), list(zip(ROWS, [True] + [False] * 7)))
def test_only_names_that_are_no_better_than_chance_are_marked(row, expected):
    row = SimpleNamespace(**frame_of(row).iloc[0].to_dict())
    assert by_chance(row) == expected
    assert marked("name", row) == (f"name ({MARK})" if expected else "name")
