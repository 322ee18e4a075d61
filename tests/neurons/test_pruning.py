"""Which neurons are retained, against every subset there is and against the rule written out."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from cbsae_hub.neurons.pruning import prune
from cbsae_hub.neurons.table import NEURON_COLUMNS, NeuronTable

RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "neuron": range(9),
        "name": ["dog", "Dog", "cat", None, "red", "red", "sky", "cup", None],
        "status": ["alive"] * 7 + ["rare", "dead"],
        "interpretability": RANDOM.random(9) * 7 + 1,
        "steerability": RANDOM.random(9) - 0.2,
    }
)


def by_hand(frame, columns, normalize, combine, weights=None):
    """Scores neuron by neuron."""
    alive = frame[frame["status"] != "dead"]
    parts = []
    for column in columns:
        values = [v for v in alive[column] if v is not None and not math.isnan(v)]
        normalized = []
        for value, status in zip(frame[column], frame["status"]):
            if value is None or math.isnan(value) or status == "dead":
                normalized.append(0.0)
            elif normalize == "minmax":
                normalized.append((value - min(values)) / (max(values) - min(values)))
            elif normalize == "rank":
                worse, equal = sum(v < value for v in values), sum(v == value for v in values)
                normalized.append((worse + (equal - 1) / 2) / (len(values) - 1))
            else:
                normalized.append(value)
        parts.append([(weights or {}).get(column, 1) * v for v in normalized])
    rule = {"sum": sum, "product": math.prod, "min": min}[combine]
    return [rule(values) for values in zip(*parts)]


@pytest.mark.parametrize("normalize", ["minmax", "rank", "none"])
@pytest.mark.parametrize("combine", ["sum", "product", "min"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_best_by_the_rule(normalize, combine, count):
    frame = FRAME.copy()
    frame.loc[4, "steerability"] = math.nan
    frame.loc[5, "interpretability"] = frame.loc[6, "interpretability"]
    expected = by_hand(frame, ["interpretability", "steerability"], normalize, combine)
    found = prune(frame, count=count, normalize=normalize, combine=combine)
    np.testing.assert_allclose(found.scores, expected, atol=1e-12)
    if normalize != "rank":  # whose values are often equal
        assert found.keep == sorted(sorted(range(9), key=lambda n: (-expected[n], n))[:count])
    assert sum(found.scores[found.keep]) == pytest.approx(sum(sorted(expected)[-count:]))


@pytest.mark.parametrize("by", ["interpretability", "steerability", ["steerability"]])
@pytest.mark.parametrize("count", [2, 5])
def test_no_subset_of_that_size_has_a_higher_mean(by, count):
    values = FRAME.loc[FRAME["status"] != "dead", by if isinstance(by, str) else by[0]]
    best = max(itertools.combinations(values.index, count), key=lambda subset: values[list(subset)].mean())
    assert prune(FRAME, by, count=count).keep == list(best)


def test_both_scales_count_the_same():
    """Without normalisation the wider scale decides alone."""
    frame = pd.DataFrame({"neuron": [0, 1, 2], "interpretability": [10, 9.9, 0], "steerability": [0, 0.02, 0.01]})
    assert prune(frame, count=1).keep == [1]
    assert prune(frame, count=1, normalize="none").keep == prune(frame, "interpretability", count=1).keep == [0]


def test_weights():
    weights = {"steerability": 3.0}
    found = prune(FRAME, count=3, weights=weights)
    np.testing.assert_allclose(
        found.scores, by_hand(FRAME, ["interpretability", "steerability"], "minmax", "sum", weights)
    )
    assert found.settings["weights"] == weights
    assert prune(FRAME, count=3, weights={"steerability": 1e9}).keep == prune(FRAME, "steerability", count=3).keep


def test_the_dead_score_nothing_and_stretch_no_scale():
    frame = FRAME.copy()
    without = prune(frame[frame["status"] != "dead"], count=8)
    frame.loc[8, ["interpretability", "steerability"]] = 1e9
    found = prune(frame, count=8)
    assert found.scores[8] == 0 and found.keep == without.keep == list(range(8))
    np.testing.assert_allclose(found.scores[:8], without.scores)


@pytest.mark.parametrize("nothing", [math.nan, None, pd.NA])
def test_what_has_no_score_gets_0(nothing):
    frame = pd.DataFrame({"neuron": [0, 1, 2, 3], "s": pd.Series([0.5, nothing, 0.25, 1.0], dtype=object)})
    assert prune(frame, "s", count=3).scores.tolist() == pytest.approx([1 / 3, 0, 0, 1])


def test_of_equal_neurons_the_first_stay_in_whatever_order_the_rows_are():
    frame = pd.DataFrame({"neuron": [7, 1, 5, 3, 9], "s": [1.0, 1.0, 1.0, 2.0, 1.0]})
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        assert prune(frame.iloc[order], "s", count=3).keep == [1, 3, 5]
        assert prune(frame.iloc[order], "s", count=3, normalize="rank").keep == [1, 3, 5]


def test_one_value_for_all_is_worth_more_than_none():
    frame = pd.DataFrame({"neuron": range(3), "s": [math.nan, 0.2, 0.2], "t": [0.5, 0.1, 0.9]})
    assert prune(frame, "s", count=2).keep == [1, 2]
    assert prune(frame, ["s", "t"], count=1, combine="product").keep == [2]


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (1.0, 9), (1, 9), (0.2, 2), (0.001, 1)])
def test_a_share(share, count):
    assert prune(FRAME, share=share).keep == prune(FRAME, count=count).keep


def test_a_threshold():
    scores = by_hand(FRAME, ["interpretability", "steerability"], "minmax", "sum")
    for threshold in (sorted(scores)[4], 0.7, 0.0):
        found = prune(FRAME, threshold=threshold)
        assert found.keep == [n for n, score in enumerate(scores) if score >= threshold]


def test_rows_of_a_neuron_table_are_pruned_and_the_table_itself_is_refused():
    table = NeuronTable(FRAME.reindex(columns=[*NEURON_COLUMNS, "steerability"]))
    assert prune(table.frame, count=4).keep == prune(FRAME, count=4).keep
    with pytest.raises(TypeError, match="of a NeuronTable: its frame"):
        prune(table, count=4)


def test_the_report():
    found = prune(FRAME, "interpretability", count=4)
    kept, gone = FRAME[FRAME["neuron"].isin(found.keep)], FRAME[~FRAME["neuron"].isin(found.keep)]
    assert found.report["part"].tolist() == ["all", "retained", "discarded"]
    assert found.report["neurons"].tolist() == [9, 4, 5]
    for (_, row), rows in zip(found.report.iterrows(), (FRAME, kept, gone)):
        names = {str(name).lower() for name in rows["name"] if isinstance(name, str)}
        assert row["interpretability"] == pytest.approx(rows["interpretability"].mean())
        assert (row["dead"], row["unnamed"]) == ((rows["status"] == "dead").sum(), rows["name"].isna().sum())
        assert row["concepts"] == len(names)
    lost = {n.lower() for n in gone["name"].dropna()} - {n.lower() for n in kept["name"].dropna()}
    assert found.lost_concepts == sorted(lost) and lost
    assert found.settings == {
        "by": ["interpretability"], "normalize": "minmax", "combine": "sum", "weights": {}, "retained": 4, "count": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of count, share and threshold"),
        ({"count": 3, "share": 0.5}, "exactly one of"),
        ({"count": 0}, "count must be between 1 and 9"),
        ({"count": -3}, "count must be between"),
        ({"count": 10}, "count must be between"),
        ({"count": 0.5}, "count must be an integer"),
        ({"share": 1.5}, "share must be above 0 and at most 1.*count=1.5"),
        ({"share": 0}, "share must be finite and above 0"),
        ({"threshold": 2.5}, "no neuron scores 2.5: the best one has"),
        ({"threshold": math.nan}, "no neuron scores nan"),
        ({"count": 3, "by": "beauty"}, "no column beauty: score the neurons first"),
        ({"count": 3, "by": []}, "at least one and all different"),
        ({"count": 3, "by": ["steerability"] * 2}, "all different"),
        ({"count": 3, "by": "silent"}, "'silent' has no score of any living neuron"),
        ({"count": 3, "by": "infinite"}, "'infinite' has infinite scores"),
        ({"count": 3, "normalize": "zscore"}, "normalize must be one of minmax, rank, none"),
        ({"count": 3, "combine": "max"}, "combine must be one of sum, product, min"),
        ({"count": 3, "weights": {"beauty": 1}}, "weights are of a sum of interpretability, steerability"),
        ({"count": 3, "weights": {"steerability": 2}, "combine": "product"}, "weights are of a sum"),
        ({"count": 3, "weights": {"steerability": -2}}, "the weight of steerability must be finite and above 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        prune(FRAME.assign(silent=math.nan, infinite=math.inf), **arguments)


def test_a_neuron_comes_once():
    with pytest.raises(ValueError, match="so must the neurons be"):
        prune(FRAME.assign(neuron=0), count=3)
    with pytest.raises(ValueError, match="no column neuron"):
        prune(FRAME.drop(columns="neuron"), count=3)


@pytest.mark.parametrize("steerability", [None, math.nan])
def test_without_steerability_both_is_interpretability_and_says_so(steerability, caplog):
    frame = FRAME.drop(columns="steerability")
    if steerability is not None:
        frame["steerability"] = steerability
    pruned = prune(frame, "both", count=3)
    assert pruned.keep == prune(frame, "interpretability", count=3).keep
    assert pruned.settings["by"] == ["interpretability"], "the model's config says by what it was pruned"
    assert "no neuron has a steerability (score with --steer): pruned by interpretability alone" in caplog.text
    with pytest.raises(ValueError, match="steerability"):
        prune(frame, "steerability", count=3)
