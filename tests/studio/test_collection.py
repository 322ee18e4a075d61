"""Collections come back from links and files as they were, and what they cannot mean is a sentence."""

import base64
import json
import re
from types import SimpleNamespace

import gradio as gr
import pytest
from small_hub import CONCEPTS, Pictures, make_hub, make_pack

from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.studio.collection import Collection, as_json, from_json, read_lines
from cbsae_hub.studio.links import read, texts
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.tabs.collection import CollectionBox, listed

EVIL = "<img src=x onerror=alert(1)>"
ROUND = Collection("round things", {17: "wheels, or: balls", 3: "", 0: EVIL})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sae, encoder, judge, folder = make_hub(tmp_path_factory.mktemp("hub"))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={}, alt_column="caption")
    return LoadedModel(folder)


@pytest.fixture
def box(model):
    return CollectionBox(SimpleNamespace(model_of=lambda key: model))


def test_what_is_written_is_read_again(model):
    assert read_lines(ROUND.name, ROUND.text, model) == ROUND
    assert from_json(json.loads(json.dumps(as_json(ROUND, model))), model) == ROUND
    link, bad = read({"list": ROUND.text, "list.name": ROUND.name}, model)
    assert bad == [] and read_lines(link.collection_name, link.collection, model) == ROUND
    assert read(texts(link), model) == (link, [])


def test_lines_may_be_typed_as_people_do(model):
    typed = "  #17 wheels\n\n3,\n5\tball  and   hoop \n7;x"
    assert read_lines(" a \n b ", typed, model) == Collection("a b", {17: "wheels", 3: "", 5: "ball and hoop", 7: "x"})
    assert read_lines(None, None, model) == Collection("", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wheels", "“wheels” does not begin with a neuron's number"), ("17x", "does not begin"),
        ("-1", "does not begin"), ("٣", "does not begin"), ("32", "no neuron 32: this model has 32"),
        ("3: a\n3", "Neuron 3 is in the collection twice"), ("3: " + "x" * 201, "longer than 200 letters"),
    ],
)  # fmt: skip
def test_lines_that_make_no_sense_are_named(model, text, message):
    with pytest.raises(Refused, match=message):
        read_lines("", text, model)
    assert message.split("“")[-1].split("”")[0] in listed(model, "", text), "on the page it is a sentence"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "This is no collection"), ({}, "This is no collection"),
        ({"neurons": {"17": ""}}, "This is no collection"), ({"neurons": [17]}, "This is no collection"),
        ({"neurons": [{"neuron": "17"}]}, "“17” is no number"),
        ({"neurons": [{"neuron": True}]}, "“True” is no number"), ({"neurons": [{"neuron": -1}]}, "no neuron -1"),
        ({"neurons": [], "model": "other"}, "of the model other: choose that one"),
        ({"neurons": [{"neuron": n, "note": "x" * 190} for n in range(20)]}, "longer than the 2000 letters"),
    ],
)  # fmt: skip
def test_files_that_make_no_sense_are_refused(model, content, message):
    with pytest.raises(Refused, match=message):
        from_json(content, model)


def test_the_page_lists_names_pictures_and_notes_and_offers_the_file(model, box, tmp_path):
    shown = box.show(None, ROUND.name, ROUND.text)
    assert "round things" in shown and "wheels, or: balls" in shown and EVIL not in shown
    for neuron in ROUND.notes:
        assert (f'src="neuron/{neuron}.webp?m=sae"' in shown) == model.pack.has_icon(neuron)
    content = base64.b64decode(re.search(r'base64,([^"]+)" download="collection.json"', shown)[1])
    assert json.loads(content) == as_json(ROUND, model)
    (tmp_path / "mine.json").write_bytes(content)
    assert box.open(None, str(tmp_path / "mine.json")) == [ROUND.name, ROUND.text, shown]
    for broken in (b"{", b" " * 100_001):
        (tmp_path / "mine.json").write_bytes(broken)
        with pytest.raises(gr.Error, match="no JSON|larger than 100 kB"):
            box.open(None, str(tmp_path / "mine.json"))
