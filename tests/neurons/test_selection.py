"""Which concepts the bottleneck has to add, case by case and against the rule written out."""

import math

import numpy as np
import pandas as pd
import pytest

from cbsae_hub.neurons.selection import require_concepts, select_concepts
from cbsae_hub.neurons.table import NEURON_COLUMNS, NeuronTable

FRAME = pd.DataFrame(
    {
        "neuron": [10, 11, 12, 13, 14, 15],
        "name": ["dog", "Striped Fur", "dog", None, "sky", "cup"],
        "score": [0.3, 0.9, 0.5, math.nan, 0.2, 0.4],
        "null_percentile": [0.99, 0.97, 0.96, math.nan, 0.5, math.nan],
    }
)
WANTED = ["Dog", "moon", " striped  fur", "sky", "", "cup", "MOON", "dog "]


def test_every_concept_goes_somewhere():
    chosen, report = select_concepts(WANTED, FRAME, [10, 11, 12, 13, 15])
    assert chosen == ["moon", "sky"]  # 14, the neuron of the sky, is not retained
    expected = [
        ("Dog", "sae", 12, 0.5, 0.96, ""),  # the better one of two
        ("moon", "bottleneck", -1, None, None, ""),
        ("striped fur", "sae", 11, 0.9, 0.97, ""),
        ("sky", "bottleneck", -1, None, None, ""),
        ("", "dropped", -1, None, None, "empty"),
        ("cup", "sae", 15, 0.4, None, ""),
        ("MOON", "dropped", -1, None, None, "duplicate"),
        ("dog", "dropped", -1, None, None, "duplicate"),
    ]
    rows = report.astype(object).where(report.notna(), None)
    assert [tuple(row) for row in rows.itertuples(index=False)] == expected


def test_a_concept_is_itself_in_any_spelling():
    frame = FRAME.assign(name=["Café", "Maße", "काला", None, "sky", "cup"])
    wanted = ["CAFE\u0301", "\ufeffCup", "Masse", "किला", "\u200b", "किला\u200b"]
    chosen, report = select_concepts(wanted, frame, frame["neuron"])
    assert chosen == ["Masse", "किला"]
    assert report["concept"].tolist() == ["CAFÉ", "Cup", "Masse", "किला", "", "किला"]
    assert report["where"].tolist() == ["sae", "sae", "bottleneck", "bottleneck", "dropped", "dropped"]
    assert report["why"].tolist() == ["", "", "", "", "empty", "duplicate"]


def test_names_no_better_than_chance_do_not_count():
    everyone = FRAME["neuron"]
    assert select_concepts(WANTED, FRAME, everyone)[0] == ["moon"]
    assert select_concepts(WANTED, FRAME, everyone, 0.95)[0] == ["moon", "sky", "cup"]
    assert select_concepts(WANTED, FRAME, everyone, 0.98)[0] == ["moon", "striped fur", "sky", "cup"]
    assert select_concepts(WANTED, FRAME, everyone, 0.98)[1]["neuron"].tolist() == [10, *[-1] * 7]


def test_of_equally_good_neurons_the_first_is_named():
    frame = FRAME.assign(score=0.5).iloc[::-1]
    assert select_concepts(["dog"], frame, [10, 12])[1]["neuron"].tolist() == [10]


def test_it_is_the_difference_of_sets():
    random = np.random.default_rng(0)
    words = [f"word {i}" for i in range(60)]
    frame = pd.DataFrame(
        {
            "neuron": range(200),
            "name": random.choice(words, 200),
            "score": random.random(200),
            "null_percentile": random.random(200),
        }
    )
    keep = random.permutation(200)[:50]
    chosen, report = select_concepts(words, NeuronTable(frame.reindex(columns=list(NEURON_COLUMNS))).frame, keep)
    named = set(frame["name"][keep])
    assert chosen == [word for word in words if word not in named]
    assert report["where"].value_counts().to_dict() == {"sae": len(named), "bottleneck": 60 - len(named)}
    for row in report[report["where"] == "sae"].itertuples():
        same = frame.loc[keep][frame.loc[keep, "name"] == row.concept]
        assert row.score == same["score"].max() == frame["score"][row.neuron]


def test_what_the_sae_has_needs_no_bottleneck():
    assert select_concepts(["dog"], FRAME, [10])[0] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": "dog"}, "concepts must be a list"),
        ({"concepts": ["dog", 5]}, "concepts must be strings, got 5"),
        ({"keep": []}, "keep is empty"),
        ({"keep": [10, 10]}, "neuron 10 twice"),
        ({"keep": [10, 3]}, "keep has neuron 3, which is not in the neuron table"),
        ({"neurons": FRAME.drop(columns=["score", "name"])}, "no column name and no column score: score the neurons"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_concepts(**{"concepts": WANTED, "neurons": FRAME, "keep": [10]} | arguments)


def test_concepts_that_are_names_already_are_reported_with_their_neurons():
    chosen, report = select_concepts(["dog", "striped fur"], FRAME, FRAME["neuron"])
    assert chosen == []
    owners = r"dog \(neuron 12, score 0.50\), striped fur \(neuron 11, score 0.90\)"
    with pytest.raises(ValueError, match=owners) as said:
        require_concepts(report)
    assert "--set force=true" in str(said.value) and "min_percentile" in str(said.value)
    require_concepts(select_concepts(["dog", "moon"], FRAME, FRAME["neuron"])[1])
    with pytest.raises(ValueError, match="the list is empty"):
        require_concepts(select_concepts(["", " "], FRAME, FRAME["neuron"])[1])


def test_forced_concepts_are_trained_beside_the_neurons_that_have_them():
    chosen, report = select_concepts(["dog", "moon", "Dog"], FRAME, FRAME["neuron"], force=True)
    assert chosen == ["dog", "moon"]
    assert report["where"].tolist() == ["bottleneck", "bottleneck", "dropped"]
    assert report["neuron"].tolist() == [12, -1, -1], "the report says which neuron has it too"
    require_concepts(report)
