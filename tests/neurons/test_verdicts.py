"""A verdict rests on truth where there is one, on the name's own figures where there is none, and says which."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from cbsae_hub import NeuronTable, Pack
from cbsae_hub.neurons.verdicts import Verdicts

HUB = Path(__file__).parents[2] / "hub"
COLUMNS = (
    "neuron", "names", "scores", "null_percentile", "interpretability", "status", "truth", "truth_ap", "designated",
    "designated_ap", "added",
)  # fmt: skip
Row = namedtuple("Row", COLUMNS)


def row(names=("pizza", "egg"), scores=(5.0, 3.0), **given):
    usual = {
        "neuron": 0, "names": list(names), "scores": list(scores), "null_percentile": 1.0, "interpretability": 0.95,
        "status": "alive", "truth": None, "truth_ap": np.nan, "designated": None, "designated_ap": np.nan,
        "added": np.nan,
    }  # fmt: skip
    return Row(**{**usual, **given})


def verdict(one, concept="pizza", others=()):
    return Verdicts([one, *others]).of(one, concept)


def test_the_truth_decides_where_there_is_one():
    right = verdict(row(truth="pizza", truth_ap=0.42, interpretability=0.2))
    assert right.strong and "average precision of 0.42" in right.reason
    seldom = verdict(row(truth="pizza", truth_ap=0.29))
    assert not seldom.strong and "0.29" in seldom.reason and "0.3 or more" in seldom.reason
    other = verdict(row(truth="peach", truth_ap=0.301))
    assert not other.strong and "“peach” is what it finds best" in other.reason and "0.30" in other.reason


def test_a_name_that_is_a_known_label_needs_its_own_truth():
    finds_it = row(neuron=1, truth="pizza", truth_ap=0.1)
    assert verdict(row(truth="peach", truth_ap=0.02), others=[finds_it]).reason.startswith("on images whose content")
    # Images may be known by other labels than the neurons were named with: then the name is judged by itself.
    unknown = verdict(row(truth="sketch", truth_ap=0.02))
    assert unknown.strong and "what the images show is not known" in unknown.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"null_percentile": 0.96}, "4% of neurons with random images"),
        ({"null_percentile": np.nan}, "was not measured"),
        ({"status": "dense"}, "more than 10 % of all patches"),
        ({"interpretability": 0.62}, "interpretability 0.62, not 0.9"),
        ({"scores": [5.0, 4.8]}, "“egg” fits it nearly as well"),
    ],
)
def test_without_truth_a_name_has_to_be_better_than_others(given, said):
    found = verdict(row(**given))
    assert not found.strong and said in found.reason
    assert verdict(row()).strong


def test_other_names_are_weak_and_the_first_is_told():
    found = verdict(row(), "egg")
    assert not found.strong and "“pizza” is" in found.reason


def test_concept_neurons_are_held_against_what_they_were_trained_for():
    right = row(["cake"], [5.0], designated="pizza", designated_ap=0.4, truth="pizza", truth_ap=0.4)
    assert verdict(right).strong
    wrong = verdict(row(designated="pizza", designated_ap=0.13, truth="plain", truth_ap=0.78))
    assert not wrong.strong and "“plain” is what it finds best" in wrong.reason and "“pizza” with 0.13" in wrong.reason
    unknown = verdict(row(["cake"], [5.0], designated="pizza"))
    assert not unknown.strong and "found to fire on “cake”" in unknown.reason


def test_added_concepts_are_strong_only_if_the_judge_finds_them():
    added = {"designated": "pizza", "added": True, "interpretability": np.nan}
    assert verdict(row(**added, null_percentile=0.998)).strong
    beside = verdict(row(["egg", "pizza"], null_percentile=0.995, **added))
    assert not beside.strong and "“egg”" in beside.reason
    nonsense = verdict(row(["frog", "zombie"], null_percentile=0.88, **added))
    assert not nonsense.strong and "12% of all concepts" in nonsense.reason and "“frog”" in nonsense.reason
    assert "never fires" in verdict(row([], [], null_percentile=0.0, **added)).reason


@pytest.fixture(scope="module", params=["emoji-cbsae", "emoji-sae"])
def shipped(request):
    return Pack.from_pretrained(HUB / request.param)


def best_of_all(pack, table):
    found = {word: (table.find(word, 1) or [None])[0] for word in pack.vocabulary}
    return {word: match for word, match in found.items() if match is not None}


def test_strong_words_are_what_their_neurons_detect(shipped):
    best = best_of_all(shipped, shipped.neurons)
    strong = [word for word, match in best.items() if match.verdict == "strong"]
    assert 0.3 < len(strong) / len(shipped.vocabulary) < 0.9, "neither all nor hardly any"
    assert all(shipped.neurons[best[word].neuron].truth == word for word in strong)
    assert all(match.reason for match in best.values())
    weak = [word for word, match in best.items() if match.match == 1.0 and match.verdict == "weak"]
    reasons = [(shipped.neurons[best[word].neuron].truth, shipped.find(word)) for word in weak]
    assert all(found.verdict == "weak" for _, found in reasons)
    assert any(f"“{truth}” is what it finds best" in found.reason for truth, found in reasons)


def test_by_the_name_alone_nearly_all_that_is_strong_is_true(shipped):
    blind = NeuronTable(shipped.neurons.frame.assign(truth=None, truth_ap=np.nan))
    best = best_of_all(shipped, blind)
    strong = {word: match for word, match in best.items() if match.verdict == "strong"}
    right = [shipped.neurons[match.neuron].truth == word for word, match in strong.items()]
    assert len(strong) > len(shipped.vocabulary) / 4 and np.mean(right) >= 0.95
    assert all("rests on the name alone" in match.reason for match in strong.values())


def test_of_several_neurons_a_strong_one_comes_first(shipped):
    several = 0
    for word in shipped.vocabulary:
        verdicts = [match.verdict for match in shipped.neurons.find(word) if match.match == 1.0]
        assert verdicts == sorted(verdicts), "“strong” comes before “weak”"
        several += len(verdicts) > 1 and verdicts[0] == "strong"
    assert several
