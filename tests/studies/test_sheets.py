"""Which neurons stand for a concept, and what is written of them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from steerable_models import cbsae_for

from cbsae_hub.studies.sheets import KINDS, Outcome, Sheet, SheetSettings, choose, steer

CB = cbsae_for()  # retains the even neurons of 64


@pytest.fixture
def frame():
    rng = np.random.default_rng(4)
    words = ["pizza", "left", "night", "owl"]  # "red" is nobody's name
    names = [list(rng.permutation(words)[: rng.integers(0, 4)]) for _ in range(64)]
    return pd.DataFrame({"neuron": range(64), "names": names, "scores": [list(rng.random(len(n))) for n in names]})


def test_the_best_scored_neuron_of_each_side_stands_for_a_concept(frame):
    chosen = choose(frame, CB, 12)
    assert chosen["concept"].tolist() == ["pizza", "left", "night"] and choose(frame, CB, 2).equals(chosen[:2])
    assert chosen["concept neuron"].tolist() == [32, 34, 35]
    for row in chosen.to_dict("records"):
        for kind, odd in (("discarded", 1), ("retained", 0)):
            scores = {
                n: score
                for n in range(odd, 64, 2)
                for name, score in zip(frame["names"][n], frame["scores"][n])
                if name == row["concept"]
            }
            assert row[kind] == max(scores, key=scores.get)


def test_concepts_without_all_three_neurons_are_an_error(frame):
    with pytest.raises(ValueError, match="no concept of the bottleneck has a discarded and a retained neuron"):
        choose(frame[frame["neuron"] % 2 == 1], CB, 12)


def test_a_sheet_shows_and_records_every_outcome(frame):
    neurons, image = choose(frame, CB, 2), Image.new("RGB", (8, 8))
    outcomes = {kind: [Outcome(image, f"{kind} {i}", f"sentence {kind} {i}") for i in range(2)] for kind in KINDS}
    sheet = Sheet(neurons, outcomes, "as it is", 7, 20.0)
    record = sheet.record()
    assert record["scene"] == {"row": 7, "unsteered": "as it is"} and record["alpha"] == 20
    for i, concept in enumerate(record["concepts"]):
        assert concept["concept"] == neurons["concept"][i]
        for kind in KINDS:
            expected = {"neuron": neurons[kind][i], "one word": f"{kind} {i}", "sentence": f"sentence {kind} {i}"}
            assert concept[kind] == expected
    texts = [" ".join(text.get_text().split()) for axes in sheet.figure().axes for text in axes.texts]
    assert texts == [f"“{kind} {i}” sentence {kind} {i}" for i in range(2) for kind in KINDS]


def test_settings_are_read_from_three_sections_of_a_recipe():
    sections = {
        "cbsae": {"model": "sae", "output": "cb", "scores": "s", "steps": 3},
        "scores": {"images": "i", "split": "probe"},
        "steerability": {"llava": "l", "unclip": "u", "alpha": 20},
    }
    assert SheetSettings.of(**sections) == SheetSettings("sae", "cb", "s", "i", "probe", "l", "u", 20, 10.0)
    del sections["steerability"]["llava"]
    assert SheetSettings.of(**sections).llava is None
    assert SheetSettings.of(**sections | {"steerability": {}}).unclip is None
    del sections["scores"]["split"]
    with pytest.raises(ValueError, match="the recipe lacks split in its sections"):
        SheetSettings.of(**sections)


def test_a_sheet_without_generators_has_empty_cells(frame):
    neurons, scene = choose(frame, CB, 2), Image.new("RGB", (8, 8))
    outcomes = {kind: steer(None, None, scene, neurons[kind].tolist(), 20.0, 10.0) for kind in KINDS}
    sheet = Sheet(neurons, outcomes, None, 7, 20.0)
    assert {outcome for kind in KINDS for outcome in outcomes[kind]} == {Outcome(None, None, None)}
    record = sheet.record()
    assert record["concepts"][0]["retained"]["neuron"] == neurons["retained"][0]
    assert record["concepts"][0]["retained"]["sentence"] is record["scene"]["unsteered"] is None
    figure = sheet.figure()
    assert figure.get_suptitle() == "No LLaVA and no unCLIP: nothing was said or drawn"
    assert not any(axes.images for axes in figure.axes)
