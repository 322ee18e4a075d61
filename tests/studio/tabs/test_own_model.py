"""The page of somebody's own encoder, which no LLaVA and no unCLIP reads, and whose names are mostly chance."""

import copy
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from own_model import OwnPictures, make_own_model

from cbsae_hub import NeuronTable
from cbsae_hub.neurons.chance import MARK, MEANING, SURE, telling
from cbsae_hub.pipeline.answers import NONSENSE
from cbsae_hub.pipeline.nonsense import Nonsense
from cbsae_hub.pipeline.ranking import rank_neurons
from cbsae_hub.studio.basket import Basket, changed, dock
from cbsae_hub.studio.links import read, texts
from cbsae_hub.studio.server.generators import READERS, Generators, Unavailable, reads_encoder
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.server.worked_examples import ExampleChooser
from cbsae_hub.studio.tabs.find import FindTab
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.tabs.neuron import NeuronTab, neuron_page
from cbsae_hub.studio.tabs.scores import rows_of
from cbsae_hub.studio.tabs.start import cards, examples
from cbsae_hub.studio.tabs.steer_image import SteerImageTab
from cbsae_hub.studio.tabs.steer_llava import SteerLlavaTab

HUB = Path(__file__).parents[3] / "hub"
TOOLTIP = f'<abbr class="cb-chance" title="{MEANING}">{MARK}</abbr>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_own_model(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def own(folder):
    return Serving([folder])


def rendered(tab, serving):
    with gr.Blocks():
        made = tab(SessionState(serving))
        made.render()
    return made


@pytest.fixture(scope="module")
def lucky(own):
    """A neuron whose name is no better than chance."""
    frame = own.first.pack.neurons.frame
    return own.first.pack.neurons[
        int(frame[frame["name"].notna() & (frame["null_percentile"] < SURE)].iloc[0]["neuron"])
    ]


def test_start_offers_specific_neurons_whose_names_are_better_than_chance(own):
    model = own.first
    shown = [model.pack.neurons[example.link.neuron] for example in examples(model)]
    assert 3 <= len(shown) <= 6 and len({row.name for row in shown}) == len(shown)
    assert all(row.status == "alive" and row.null_percentile >= SURE for row in shown)
    scores = [row.score for row in shown]
    assert scores == sorted(scores, reverse=True) and shown[0].neuron == model.best_neuron
    for example in examples(model):
        assert read(texts(example.link), model) == (example.link, []) and example.link.tab == "neuron"
        assert f"{model.pack.neurons[example.link.neuron].density:.1%} of the pictures" in example.expect
    assert MARK not in cards(model)


def doubted(own, tmp_path, score):
    """The same model in the folder of an explanation whose untrained SAE has names of this score."""
    folder = tmp_path / "dogs" / "sae"
    shutil.copytree(own.first.model_id, folder)
    report = {"neurons": 60, "share_above_chance": 0.3, "score": score}
    (folder.parent / NONSENSE).write_text(json.dumps(report))
    return LoadedModel(folder), Nonsense(**report)


def test_start_offers_what_the_report_calls_best(own, tmp_path):
    scores = telling(own.first.pack.neurons.frame).drop_duplicates("name")["score"]
    for number, score in enumerate((scores.iloc[2], None)):
        model, nonsense = doubted(own, tmp_path / str(number), score)
        shown = [example.link.neuron for example in examples(model)]
        best = rank_neurons(model.pack.neurons.frame, model.pack.info["images"]["n"], nonsense)["best"]
        good = [neuron for neuron in shown if neuron in set(model.telling["neuron"])]
        assert good == best[: len(good)] and (len(good) == 2 if score else good == shown)
        assert model.best_neuron == best[0] and "trust the pictures" not in cards(model)


def test_start_says_that_no_name_is_worth_anything_where_the_report_says_so(own, tmp_path):
    model, nonsense = doubted(own, tmp_path, 1000.0)
    assert rank_neurons(model.pack.neurons.frame, model.pack.info["images"]["n"], nonsense)["best"] == []
    shown = cards(model)
    assert "No name of this model is better than chance and than those that an untrained SAE gets" in shown
    assert not any(re.search("stands for “(?!one thing)", example.hypothesis) for example in examples(model))
    assert all(f"Look at neuron {example.link.neuron}" == example.title for example in examples(model))
    assert any("no better than those that an untrained SAE gets" in example.expect for example in examples(model))
    assert rendered(FindTab, SimpleNamespace(first=model, models={model.key: ""})).suggestions.choices == []


def test_a_model_without_names_has_a_page(own):
    model = copy.copy(own.first)
    model.pack = copy.copy(model.pack)
    frame = model.pack.neurons.frame.assign(name=None, score=np.nan, null_percentile=0.0)
    frame["names"], frame["scores"] = [[] for _ in range(len(frame))], [[] for _ in range(len(frame))]
    model.pack.neurons = NeuronTable(frame)
    assert model.pack.neurons[model.best_neuron].status == "alive"
    assert all("It has no name" in example.expect for example in examples(model)) and len(examples(model)) == 6
    assert "no name - #" in neuron_page(model, model.best_neuron)


def test_find_suggests_only_such_names_and_explains_the_mark(own, lucky):
    tab = rendered(FindTab, own)
    sure = set(telling(own.first.pack.neurons.frame)["name"])
    assert {name for name, _ in tab.suggestions.choices} <= sure
    _, results, _, card = tab.search(own.first.key, lucky.name, lucky.neuron)
    assert results.info == MEANING and any(MARK in title for title, _ in results.choices)
    assert TOOLTIP in card and MEANING in re.sub("<abbr.*?</abbr>", "", card)


def test_the_mark_and_its_tooltip_are_wherever_the_name_is(own, lucky):
    model = own.first
    basket = changed(Basket(), model, "add", str(lucky.neuron))
    assert dock(model, basket).count(TOOLTIP) == 2, "in the chip and in the row"
    assert TOOLTIP in neuron_page(model, lucky.neuron) and TOOLTIP in rows_of(model, lucky.name, "score")
    near = next(n for n in range(len(model.pack.neurons)) if lucky.neuron in dict(model.neighbours(n)))
    assert TOOLTIP in neuron_page(model, near).split("push nearly the same way")[1]
    sure = telling(model.pack.neurons.frame).iloc[0]
    assert MARK not in dock(model, changed(Basket(), model, "add", str(sure["neuron"])))


def test_inspect_marks_them_too(own):
    pictures = SimpleNamespace(get=lambda name, pack: OwnPictures()[1]["image"])
    page = InspectTab(SimpleNamespace(model_of=lambda _: own.first, serving=SimpleNamespace(images=pictures)))
    *_, radio, _ = page.where(None, "mine~a", False)
    assert any(MARK in title for title, _ in radio.choices) and radio.info == MEANING


@pytest.mark.parametrize(("tab", "which"), [(SteerLlavaTab, "LLaVA"), (SteerImageTab, "unCLIP")])
def test_steering_tabs_say_at_once_that_nothing_reads_the_encoder(own, folder, tab, which):
    other = Serving([folder, HUB / "emoji-sae"], str(HUB / "emoji-llava"), str(HUB / "emoji-unclip"))
    for serving, reason in ((own, f"started without {which}"), (other, "does not read the encoder me/encoder")):
        made = rendered(tab, serving)
        assert reason in made.notice.value
        assert f"No {which} is known that does. It would have me/encoder" in made.notice.value
        assert "python app.py" not in made.notice.value and "llava-hf" not in made.notice.value
        assert "score_neurons.py" not in made.notice.value
        assert reason in made.problem(serving.first)
    assert made.notify("emoji-sae") == "" == made.problem(other.of("emoji-sae"))
    assert "does not read" in made.notify(other.first.key)
    with pytest.raises(Unavailable, match="does not read"):
        getattr(other.first, which.lower())


def test_the_neuron_page_does_not_wait_for_them(own):
    made = rendered(NeuronTab, own)
    assert "started without LLaVA" in made.live.value and "are asked" not in made.live.value


def test_a_generator_is_advised_only_if_its_tower_is_the_encoder(tmp_path):
    beside = str(HUB / "emoji-cbsae")
    for which in ("llava", "unclip"):
        assert reads_encoder(which, str(HUB / f"emoji-{which}"), "hub/emoji-clip", beside) is True, "by its weights"
        assert reads_encoder(which, str(HUB / f"emoji-{which}"), str(HUB / "emoji-dino"), beside) is False
        assert reads_encoder(which, "me/unknown", "me/encoder", beside) is None
        ((encoder, generator), *_) = READERS[which].items()
        assert Generators().advised(which, encoder, beside) == generator
        assert reads_encoder(which, generator, encoder, beside) is True, "by its id"
        assert Generators().advised(which, "me/encoder", beside) is None
        given = Generators(**{which: str(HUB / f"emoji-{which}")})
        assert given.advised(which, "hub/emoji-clip", beside) == str(HUB / f"emoji-{which}")
        assert given.advised(which, str(HUB / "emoji-dino"), beside) is None
    renamed = tmp_path / "renamed"
    shutil.copytree(HUB / "emoji-clip", renamed)
    assert reads_encoder("llava", str(HUB / "emoji-llava"), str(renamed), beside) is True


def test_worked_examples_are_chosen_among_them(own):
    chosen = ExampleChooser(own, own.first).frame
    assert (chosen["null_percentile"] >= SURE).all() and not chosen["status"].isin(["dead", "dense"]).any()
