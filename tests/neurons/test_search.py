import math
from collections import namedtuple

import pytest

from cbsae_hub.neurons.search import ConceptIndex

Row = namedtuple("Row", "neuron names scores null_percentile")
ROWS = [
    Row(0, ["dog", "wolf"], [4.0, 2.0], 1.0),
    Row(1, ["hot dog", "pizza"], [3.0, 1.0], 1.0),
    Row(2, ["dog", "cat"], [5.0, 0.5], 1.0),
    Row(3, ["wolf", "dog"], [2.5, 2.4], 1.0),
    Row(4, ["night sky", "star"], [3.0, 2.0], 0.5),
    Row(5, [], [], 0.0),
    Row(6, ["butterfly"], [1.0], 1.0),
]


@pytest.fixture(scope="module")
def index():
    return ConceptIndex(ROWS)


def test_exact_names_come_first_by_rank_and_score(index):
    found = index.find("dog")
    assert [(f.neuron, f.concept, f.rank) for f in found] == [
        (2, "dog", 0),
        (0, "dog", 0),
        (3, "dog", 1),
        (1, "hot dog", 0),
    ]
    assert [f.verdict for f in found] == ["strong", "strong", "weak", "weak"]
    assert [f.match for f in found[:3]] == [1.0] * 3 and 0 < found[3].match < 0.95


@pytest.mark.parametrize(
    ("query", "neuron"),
    [("DOGS", 2), ("a dog", 2), ("dogs, hot", 1), ("butterflies", 6), ("butter", 6), ("butterfyl", 6), ("sky", 4)],
)
def test_forms_of_words_are_found(index, query, neuron):
    assert index.find(query)[0].neuron == neuron


def test_strong_ones_come_first_and_all_say_why(index):
    Judged = namedtuple("Judged", [*Row._fields, "truth", "truth_ap"])
    rows = [Judged(0, ["dog"], [9.0], 1.0, "peach", 0.5), Judged(1, ["dog"], [4.0], 1.0, "dog", 0.5)]
    found = ConceptIndex(rows).find("dog")
    assert [(f.neuron, f.verdict) for f in found] == [(1, "strong"), (0, "weak")]
    assert "“dog” is what it finds best" in found[0].reason and "“peach”" in found[1].reason
    assert "“hot dog” has not all of these words" in index.find("dog")[3].reason


def test_a_concept_neuron_has_its_own_score_for_what_it_was_trained_for():
    Trained = namedtuple("Trained", [*Row._fields, "designated", "designated_score"])
    rows = [
        Trained(0, ["wolf"], [4.0], 1.0, "dog", 1.5),
        Trained(1, ["cat"], [4.0], 1.0, "dog", 2.5),
        Trained(2, ["owl"], [4.0], 1.0, "dog", math.nan),  # the list of concepts lacks it
    ]
    found = ConceptIndex(rows).find("dog")
    assert [(f.neuron, f.score) for f in found[:2]] == [(1, 2.5), (0, 1.5)]
    assert found[2].neuron == 2 and math.isnan(found[2].score)
    Old = namedtuple("Old", [*Row._fields, "designated"])  # of a pack that does not say
    assert math.isnan(ConceptIndex([Old(0, ["wolf"], [4.0], 1.0, "dog")]).find("dog")[0].score)


def test_a_name_that_chance_could_give_is_weak(index):
    assert index.find("night sky")[0].verdict == "weak"


@pytest.mark.parametrize("query", ["", "   ", "!?", "quantum chromodynamics", "xq"])
def test_nothing_is_found_for_nothing(index, query):
    assert index.find(query) == []


def test_spelling_suggestions(index):
    assert index.spelled_like("piza", 3)[0] == "pizza"


OTHER_SCRIPTS = ["काला", "दिन", "Café", "Maße", "黒猫", "แมวดำ", "سِنّ", "bird’s nest", "❤\ufe0f", "kılıç"]


@pytest.fixture(scope="module")
def of_other_scripts():
    return ConceptIndex([Row(i, [name], [4.0], 1.0) for i, name in enumerate(OTHER_SCRIPTS)])


@pytest.mark.parametrize("query", ["किला", "दीन", "Masse", "犬", "สุนัข", "سُنّ", "\u200b", "ि", "kilic"])
def test_other_words_of_any_script_are_no_match(of_other_scripts, query):
    assert [f.concept for f in of_other_scripts.find(query) if f.match > 0.5] == []


@pytest.mark.parametrize(
    ("query", "concept"),
    [
        ("CAFE\u0301", "Café"),
        ("cafe\u0301s", "Café"),
        ("MAẞE", "Maße"),
        ("काला।", "काला"),
        ("سِـنّ", "سِنّ"),
        ("birds nest", "bird’s nest"),
        ("BIRD'S NEST", "bird’s nest"),
        ("❤", "❤\ufe0f"),
    ],
)
def test_other_spellings_of_a_word_are_it(of_other_scripts, query, concept):
    found = of_other_scripts.find(query)[0]
    assert found.concept == concept and found.match >= 0.95 and found.verdict == "strong"


@pytest.mark.parametrize(("query", "concept"), [("猫", "黒猫"), ("แมว", "แมวดำ"), ("bird", "bird’s nest")])
def test_parts_are_weak_also_without_spaces(of_other_scripts, query, concept):
    found = of_other_scripts.find(query)[0]
    assert found.concept == concept and found.match < 0.95 and found.verdict == "weak"
