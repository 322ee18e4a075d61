"""Every sentence of a worked example is what the page shows when one does what it says."""

import re
from types import SimpleNamespace

import gradio as gr
import pytest

from cbsae_hub.data.images import load_images
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import changed
from cbsae_hub.studio.links import Link, basket_text, read, texts
from cbsae_hub.studio.server.concept_training import ConceptTraining
from cbsae_hub.studio.server.session import SessionState
from cbsae_hub.studio.tabs.find import FindTab
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.tabs.own_concepts import OwnConceptsTab, located
from cbsae_hub.studio.tabs.start import cards, examples
from cbsae_hub.studio.tabs.steer_image import SteerImageTab
from cbsae_hub.studio.tabs.steer_llava import COLUMNS, SteerLlavaTab
from cbsae_hub.studio.tabs.suppress import SuppressTab
from cbsae_hub.words import name_key

pytestmark = pytest.mark.slow

VISITOR = SimpleNamespace(session_hash="me")
MODELS = ("emoji-cbsae", "emoji-sae")
QUOTED = r"(?:“(.*?)”|nothing)"


@pytest.fixture(params=MODELS)
def loaded(serving, request):
    return serving.of(request.param)


def named(loaded, title):
    found = [example for example in examples(loaded) if example.title == title]
    if not found:
        pytest.skip(f"{loaded.name} has no example of that kind")
    return found[0]


def rendered(tab, serving):
    with gr.Blocks():
        made = tab(SessionState(serving))
        made.render()
    return made


def asked(serving, loaded, link):
    """The answers that the tab shows, as texts by their columns."""
    tab = rendered(SteerLlavaTab, serving)
    settings = SteerLlavaTab.edit_values(link.alone, link.op, link.keep_error, link.word)
    shown = tab.ask(VISITOR, loaded.key, basket_text(link.basket), link.image, link.question, *settings)
    answers = [re.sub("<[^>]*>", "", text) for text in re.findall(r"</h3><p>(.*?)</p>", shown)]
    return dict(zip(COLUMNS, ["" if text == "(nothing)" else text for text in answers], strict=True))


@pytest.mark.parametrize("title", ["One neuron, one word", "A concept that the SAE lacked"])
def test_a_neuron_is_said_and_its_control_is_what_the_card_promises(serving, loaded, title):
    example = named(loaded, title)
    said, control = re.fullmatch(
        f"LLaVA says {QUOTED}; pushed as far in a random direction, {QUOTED}\\.", example.expect
    ).groups(default="")
    answers = asked(serving, loaded, example.link)
    assert (answers["steered"], answers["random"]) == (said, control)
    name = re.search("The neuron for “(.*?)”", example.hypothesis)[1]
    assert name == said and name not in (answers["original"], answers["sae"], answers["random"])
    row = loaded.pack.neurons[example.link.neuron]
    (item,) = example.link.basket.edits
    assert item.neuron == row.neuron and f"Set it to {item.value:g} on a white picture" in example.experiment
    in_sae = {name_key(other.name) for other in loaded.pack.neurons if other.kind == "sae" and other.name}
    if title == "One neuron, one word":
        assert row.kind == "sae" and row.name == name
    else:
        assert row.kind == "cb" and row.designated == name and name_key(name) not in in_sae


def test_of_two_neurons_the_promised_one_wins_and_muted_it_leaves_the_other(serving, loaded):
    example = named(loaded, "Two at once")
    wins, loses = re.findall("“(.*?)”", example.expect)
    assert asked(serving, loaded, example.link)["steered"] == wins
    winner = next(item for item in example.link.basket.edits if wins in name_of(loaded, item.neuron))
    muted = changed(example.link.basket, loaded, "mute", str(winner.neuron))
    assert asked(serving, loaded, Link(**{**vars(example.link), "basket": muted}))["steered"] == loses
    assert f"{wins} and {loses}" in example.experiment or f"{loses} and {wins}" in example.experiment


def name_of(loaded, neuron):
    row = loaded.pack.neurons[neuron]
    return row.designated if row.kind == "cb" else row.name


def test_what_is_mute_is_readable_and_not_said(serving, loaded):
    example = named(loaded, "Readable, but mute")
    name = loaded.pack.neurons[example.link.neuron].name
    assert f"surely stands for {name} " in example.hypothesis
    found = loaded.pack.find(name).matches
    assert any(match.neuron == example.link.neuron and match.verdict == "strong" for match in found)
    answers = asked(serving, loaded, example.link)
    assert f"LLaVA says “{answers['steered']}”." in example.expect and name not in answers["steered"].split()


def test_drawings_get_nearer_in_every_row_and_the_control_stays_behind(serving, loaded):
    example = named(loaded, "Let it draw")
    name = loaded.pack.neurons[example.link.neuron].name
    tab, link = rendered(SteerImageTab, serving), example.link
    restored = tab.restore(loaded, link, True)[len(tab.image.outputs) :]
    *settings, seed, seeds, steps, _ = restored
    *_, shown = tab.draw(VISITOR, loaded.key, basket_text(link.basket), link.image, *settings, seed, seeds, steps)
    numbers = [float(number) for number in re.findall(f"<span>{name} (-?\\d\\.\\d\\d)</span>", shown)]
    assert len(numbers) == 5 * seeds >= 10
    for start in range(0, len(numbers), 5):
        unsteered, *steered, control = numbers[start : start + 5]
        assert [unsteered, *steered] == sorted({unsteered, *steered}), "each is above the one before, as shown"
        assert control < min(steered)
    assert asked(serving, loaded, link)["steered"] == name, "which is what the hypothesis starts from"


def test_where_it_looks_is_where_the_thing_is_and_not_all_over(serving, loaded, pictures):
    example = named(loaded, "Where does it look?")
    tab = InspectTab(SessionState(serving))
    _, _, _, seen, _, grid, _, neurons, card = tab.restore(loaded, example.link, True)
    fires, of = map(int, re.search(r"fires on (\d+) of (\d+) patches", example.expect).groups())
    assert f"fires: {fires} of {of} patches." in grid and fires <= of / 4
    title = re.search("Neuron (.*) fires where (.*) is,", example.hypothesis)
    assert f"Where {title[1]} fires" in grid and f"<h3>{title[1]}</h3>" in card
    assert neurons.value == str(example.link.firing_neuron), "it is chosen"
    number = int(example.link.inspected_image[1:])
    boxes = [thing["box"] for thing in pictures[number]["objects"] if thing["name"] == title[2]]
    strengths = [float(value) for value in re.findall(r"strength (\d\.\d\d)", grid)]
    rows, columns = loaded.pack.grid
    width, height = pictures[number]["image"].size
    for patch, strength in enumerate(strengths):
        here = SimpleNamespace(patch=patch)
        if strength > 0.5:
            x, y = (patch % columns + 0.5) / columns * width, (patch // columns + 0.5) / rows * height
            size = width / columns
            assert any(x0 - size <= x <= x1 + size and y0 - size <= y <= y1 + size for x0, y0, x1, y1 in boxes), (
                "the patches that light up are on it"
            )
        elif strength == 0:
            *_, others, _ = tab.at_patch(here, loaded.key, seen, True)
            assert others.choices and not any(name.startswith(f"{title[1]}: ") for name, _ in others.choices)


@pytest.fixture(scope="module")
def pictures(shipped):
    """The data set that both packs were made of, which says where things are."""
    return load_images("hub/emoji-images", shipped.pack.info["images"]["split"])


def test_what_is_lacking_is_not_there_then_trained_strong_and_said(serving, shipped):
    example = named(shipped, "A concept that it lacks")
    word = example.link.query
    find = FindTab(SessionState(serving))
    assert "cb-strong" not in find.search(shipped.key, word)[0] and f"“{word}”" in example.hypothesis
    tab = OwnConceptsTab(SessionState(serving), ConceptTraining(serving))
    *_, done = tab.add(VISITOR, shipped.key, word, False)
    own = serving.of(done[3])
    assert "1 concept added" in done[0] and "surely learned" not in done[0]
    ((_, match),) = located(own, [word])
    assert match.verdict == "strong" and "cb-strong" in find.search(own.key, word)[0]
    said, control = re.search(
        f"LLaVA say {QUOTED}; pushed as far in a random direction, LLaVA says {QUOTED}\\.", example.expect
    ).groups(default="")
    basket = changed(Link().basket, own, "add", str(match.neuron))
    answers = asked(serving, own, Link(basket=basket, image="white", question=ONE_WORD))
    assert (answers["steered"], answers["random"]) == (said, control) and said == word


def test_right_answers_with_neurons_off_are_those_of_the_card(serving, loaded):
    example = next(example for example in examples(loaded) if example.link.tab == "suppress")
    pictures, name, *right, off, control = re.search(
        r"Of (\d+) pictures of the group “(.*?)”, CLIP is right about (\d+) as it is, (\d+) without the (\d+) neurons, "
        r"and (\d+) without as many others", example.expect
    ).groups()  # fmt: skip
    tab = rendered(SuppressTab, serving)
    sets, without, *settings = tab.restore(loaded, example.link, True)[: len(tab.parts)]
    accuracy, _, _ = tab.find(loaded.key, sets, without.value, *settings, (), ())
    row = re.search(f"<th>{name}</th><td>{pictures}</td>(.*?)</tr>", accuracy)[1]
    shares = [round(int(share) * int(pictures) / 100) for share in re.findall(r"<span>(\d+)%</span>", row)]
    assert shares == [*map(int, right), int(control)] and f"All {off} neurons" in accuracy


def test_every_example_is_a_link_to_something_that_is_there(serving, loaded):
    titles = [example.title for example in examples(loaded)]
    assert len(set(titles)) == len(titles) >= (7 if loaded is serving.first else 3)
    for example in examples(loaded):
        assert read(texts(example.link), loaded) == (example.link, [])
        assert example.link.tab and f">{example.title}<" in cards(loaded)


def test_examples_of_other_models_and_generators_are_not_shown(shipped, monkeypatch):
    titles = [example.title for example in examples(shipped)]
    monkeypatch.setattr(shipped.generators, "ids", {"llava": "somebody/llava-7b", "unclip": None})
    left = [example.title for example in examples(shipped)]
    assert set(left) == {"Where does it look?", "A concept that it lacks", "The water animal without water"}
    assert set(left) < set(titles)
    assert "LLaVA" not in next(example for example in examples(shipped) if "lacks" in example.title).expect
