"""The tab "Steer CLIP" shows what its experiments give; a tiny random CLIP."""

import re

import gradio as gr
import pytest
from own_model import make_clip_model, make_own_model

from cbsae_hub.steering import Steering
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.basket import range_of
from cbsae_hub.studio.links import HOW, WHERE, Link
from cbsae_hub.studio.server.experiments import Experiment
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.tabs.steer_clip import SteerClipTab


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    return Serving([make_clip_model(tmp_path_factory.mktemp("clip"))])


@pytest.fixture(scope="module")
def neuron(serving):
    frame = serving.first.pack.neurons.frame
    return int(frame[frame["name"].notna()].iloc[0]["neuron"])


def rendered(serving):
    with gr.Blocks():
        tab = SteerClipTab(SessionState(serving))
        tab.render()
    return tab


def values(serving, basket, strength=100, word=""):
    return [serving.first.key, basket, "s3", next(iter(WHERE)), next(iter(HOW)), False, word, strength]


def percents(text):
    return [float(number) for number in re.findall(r"<span>([\d.]+)%</span>", text)]


def test_bars_show_every_version_of_every_word(serving, neuron):
    tab, start = rendered(serving), range_of(serving.first, neuron).start
    text = tab.show(*values(serving, f"{neuron}:{start:.3f}", 50, "zebra"))
    image = serving.images.get("s3", serving.first.pack)
    experiment = tab.experiment(dict(zip(tab.settings, values(serving, f"{neuron}:{start:.3f}", 50, "zebra"))))
    assert isinstance(experiment, Experiment) and experiment.image.tobytes() == image.tobytes()
    bars = serving.clip_experiments.bars(experiment, 0.5)
    expected = [bars.versions[name][place] for place in range(len(bars.words)) for name in bars.versions]
    assert percents(text) == pytest.approx([100 * one for one in expected], abs=0.051)
    assert [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<th>(.*?)</th>", text)] == bars.words
    assert 'class="cb-watched"><th>zebra<' in text and 'x1="33.3"' in text, "a line at half of the basket, of 150 %"
    assert "&#34;clip.x&#34;: &#34;50&#34;" in text, "other settings make it stale"


def test_an_empty_basket_leaves_clip_and_the_sae(serving):
    text = rendered(serving).show(*values(serving, ""))
    assert "Nothing is set" in text and "Random control" not in text and len(percents(text)) == 2 * 6


def test_neurons_that_decide_are_cards_with_buttons(serving):
    text = rendered(serving).decide(*values(serving, ""))
    experiment = Experiment(serving.first, serving.images.get("s3", serving.first.pack), Steering([]), "")
    decision = serving.clip_experiments.decision(experiment, True)
    assert decision.neurons and f"“{decision.word}”" in text
    assert re.findall(r'data-act="add" data-neuron="(\d+)"', text) == [str(one.neuron) for one in decision.neurons]
    assert "&#34;pic&#34;: &#34;s3&#34;" in text and "clip.x" not in text, "another picture makes it stale, no strength"


def test_bad_settings_are_refused(serving, neuron):
    tab = rendered(serving)
    for strength in (-1, 151, None, True, "50"):
        with pytest.raises(gr.Error, match="between 0 and 150 %"):
            tab.show(*values(serving, "", strength))
    with pytest.raises(gr.Error, match="no neuron 9999"):
        tab.show(*values(serving, "9999:1.000"))


def test_a_link_has_llavas_settings_unless_it_says_otherwise(serving):
    tab = rendered(serving)
    *_, where, how, keep, word, strength = tab.restore(
        serving.first, Link(alone=True, word="sun", clip_op="add", clip_word="moon", strength=75), False
    )
    assert (WHERE[where], HOW[how], keep, word, strength) == ("1", "add", False, "moon", 75)


def test_an_encoder_that_is_no_clip_is_told_at_once(tmp_path):
    other = Serving([make_own_model(tmp_path)])
    tab = rendered(other)
    assert "is of type vit. Only a CLIP with a text tower answers in words" in tab.notice.value
    assert "of type vit" in tab.show(*[other.first.key, *values(other, "")[1:]])
    with pytest.raises(Refused, match="of type vit"):
        Api(other).steer_clip("white", [])


def test_the_endpoint_says_what_the_page_shows(serving, neuron):
    start = range_of(serving.first, neuron).start
    answer = Api(serving).steer_clip("s3", [{"neuron": neuron, "value": start}], word="zebra", decisive=True)
    tab = rendered(serving)
    experiment = tab.experiment(dict(zip(tab.settings, values(serving, f"{neuron}:{start:.3f}", word="zebra"))))
    bars = serving.clip_experiments.bars(experiment)
    assert list(answer["steered"]) == bars.words
    assert list(answer["steered"].values()) == pytest.approx(bars.versions["steered"], abs=1e-3)
    decisive, decision = answer["decisive"], serving.clip_experiments.decision(experiment, True)
    assert decisive["word"] == decision.word
    assert [one["neuron"] for one in decisive["neurons"]] == [one.neuron for one in decision.neurons]
    assert Api(serving).steer_clip("s3", [])["decisive"] is None
    with pytest.raises(Refused, match="word must be a text of at most 40"):
        Api(serving).steer_clip("s3", [], word="x" * 41)
