"""The tab "Suppress" shows what its groups give; a tiny random CLIP."""

import re

import gradio as gr
import pytest
from own_model import make_clip_model
from small_hub import Pictures

from cbsae_hub.studio.api import Api
from cbsae_hub.studio.links import SETS, Link
from cbsae_hub.studio.server.groups import labels_of
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.tabs.start import examples
from cbsae_hub.studio.tabs.suppress import LISTED, SuppressTab, answers_of

SAMPLES, OWN = SETS


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    return Serving([make_clip_model(tmp_path_factory.mktemp("clip"))])


@pytest.fixture(scope="module")
def tab(serving):
    with gr.Blocks():
        made = SuppressTab(SessionState(serving))
        made.render()
    return made


def values(serving, sets=SAMPLES, without="0", tau=-2.0, words=("", "", ""), files=((), ())):
    return [serving.first.key, sets, without, tau, *words, *files]


def shares(text):
    return [int(number) for number in re.findall(r"<span>(\d+)%</span>", text)]


def test_accuracies_per_group_and_the_neurons(serving, tab):
    accuracy, ticks, cards = tab.find(*values(serving))
    reading = serving.groups.samples(serving.first, labels_of(serving.first))
    features, answers = serving.groups.suppress(serving.first, reading, 0.01)
    versions = [reading.before, answers.after, answers.random]
    versions = [one for one in versions if one is not None]
    expected = [100 * one.groups[group] for group in range(4) for one in versions]
    expected += [100 * getattr(one, name) for name in ("overall", "worst") for one in versions]
    assert shares(accuracy) == pytest.approx(expected, abs=0.51)
    assert "<th>dark, no right</th>" in accuracy and f"All {answers.off} neurons that fire more" in accuracy
    assert [int(value) for _, value in ticks.choices] == features[:LISTED] == list(map(int, ticks.value))
    assert [int(one) for one in re.findall(r'data-act="open" data-neuron="(\d+)"', cards)] == features[:LISTED]
    assert f"mean {float(reading.difference.present[features[0]]):.3g} on the first set" in cards


def test_what_is_not_ticked_stays_on(serving, tab):
    _, ticks, _ = tab.find(*values(serving))
    first, *rest = ticks.value
    text = tab.switch(*values(serving), rest)
    reading = serving.groups.samples(serving.first, labels_of(serving.first))
    _, answers = serving.groups.suppress(serving.first, reading, 0.01, frozenset([int(first)]))
    assert f"{answers.off} of the {answers.off + 1} neurons" in text
    assert shares(text)[1::3] == pytest.approx(
        [100 * one for one in (*answers.after.groups, answers.after.overall, answers.after.worst)], abs=0.51
    )


def test_two_sets_of_files(serving, tab, tmp_path):
    pictures = Pictures(30)
    files = ([], [])
    for number, (image, side) in enumerate(zip(pictures["image"][:14], pictures.sides)):
        image.save(tmp_path / f"{number}.png")
        files[side == "left"].append(str(tmp_path / f"{number}.png"))
    accuracy, ticks, _ = tab.find(*values(serving, OWN, words=("dark", "dark", "light, pale"), files=files))
    assert "<th>first set</th>" in accuracy and "<th>second set</th>" in accuracy and ticks.choices
    silent, again, _ = tab.find(*values(serving, OWN, files=files))
    assert again.choices == ticks.choices and "Say what each set shows" in silent
    with pytest.raises(gr.Error, match="Each set needs"):
        tab.find(*values(serving, OWN))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(gr.Error, match="not a picture"):
        tab.find(*values(serving, OWN, files=([str(tmp_path / "text.png")], files[1])))


def test_words_among_which_clip_chooses():
    assert answers_of("a  cow", "cow", "camel; dog\n, ") == ["a cow", "cow", "camel", "dog"]
    assert answers_of("", None, " ") == []
    with pytest.raises(Refused, match="what each of the two sets shows"):
        answers_of("cow", "", "camel")


def test_bad_settings_are_refused(serving, tab):
    for tau in (-4.5, 3, None, True, "x"):
        with pytest.raises(gr.Error, match="between -4 and 2"):
            tab.find(*values(serving, tau=tau))
    with pytest.raises(gr.Error, match="no such choice"):
        tab.find(*values(serving, "somebody's"))
    empty, ticks, cards = tab.find(*values(serving, tau=2.0))
    assert "move the slider to the left" in empty and not ticks.choices and cards == ""


def test_labelled_samples_run_as_soon_as_they_are_looked_at(serving, tab):
    assert tab.reacts(values(serving)) and not tab.reacts(values(serving, OWN))
    sets, without, tau, *_ = tab.restore(serving.first, Link(sets="own", without=True, tau=-0.5), True)
    assert (sets, without.value, tau) == (OWN, "1", -0.5)
    assert [name for name, _ in without.choices] == ["right", "no right"]


def test_the_card_of_start_is_a_link_to_it(serving):
    example = next(one for one in examples(serving.first) if one.link.tab == "suppress")
    assert example.title == "The dark without right" and example.link.without
    assert "CLIP is right about 7 as it is, 8 without the 3 neurons, and 7 without as many others" in example.expect


def test_the_endpoint_says_what_the_page_shows(serving):
    answer = Api(serving).suppress([], [], [], 0.01)
    reading = serving.groups.samples(serving.first, labels_of(serving.first))
    features, answers = serving.groups.suppress(serving.first, reading, 0.01)
    assert [one["neuron"] for one in answer["neurons"]] == features[:50] and answer["off"] == answers.off
    assert [one["suppressed"] for one in answer["groups"]] == list(answers.after.groups)
    own = Api(serving).suppress(["s1", "s2"], ["white"], [])
    assert own["groups"][0] == {"group": "first set", "original": None, "suppressed": None, "random": None}
    for bad, sentence in (((["s1"] * 25, ["s2"], []), "at most 24"), ((["s1"], [], []), "Each set needs"),
                          (("s1", [], []), "must be lists"), (([], [], [], -1), "tau must be a number")):  # fmt: skip
        with pytest.raises(Refused, match=sentence):
            Api(serving).suppress(*bad)
