"""Files of neurons for other pages: what the pack has, whoever asks, and nothing of a visitor's own."""

import copy
import io
import json

import numpy as np
import pytest
from PIL import Image
from small_hub import CONCEPTS, Pictures, make_hub, make_pack
from starlette.applications import Starlette
from starlette.testclient import TestClient

from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.steering import Edit
from cbsae_hub.studio.basket import Basket, dock
from cbsae_hub.studio.neuron_files import NeuronFiles
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.tabs.neuron import neuron_page
from cbsae_hub.studio.tabs.scores import rows_of


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    sae, encoder, judge, folder = make_hub(tmp_path_factory.mktemp("hub"))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={}, alt_column="caption")
    return Serving([folder])


@pytest.fixture(scope="module")
def client(serving):
    return TestClient(Starlette(routes=NeuronFiles(serving).routes), raise_server_exceptions=True)


@pytest.fixture(scope="module")
def pack(serving):
    return serving.first.pack


def test_facts_are_those_of_the_pack(client, pack):
    told = client.get("/neuron/3.json").json()
    row, examples = pack.neurons[3], pack.examples(3, "top", 9)
    assert (told["neuron"], told["name"], told["model"]) == (3, row.name, "sae")
    assert told["score"] == pytest.approx(row.score) and told["title"].endswith("#3")
    assert [one["activation"] for one in told["examples"]] == pytest.approx([one.activation for one in examples])
    assert [one["shows"] for one in told["examples"]] == [one.alt for one in examples]
    assert told["page"] == "../?m=sae&tab=neuron&neuron=3" and list(told["icons"]) == ["crop"]
    for address in (told["card"], told["icons"]["crop"]):
        assert client.get(f"/neuron/{address}").headers["content-type"].startswith("image/")


def test_pictures_are_the_icon_and_the_strongest_images(client, pack):
    assert client.get("/neuron/3.webp").content == pack.icon(3)
    sent = client.get("/neuron/3.png?m=sae")
    card = np.asarray(Image.open(io.BytesIO(sent.content)).convert("RGB"), int)
    count = min(8, len(pack.examples(3, "top", 9)))
    assert sent.headers["content-type"] == "image/png" and card.shape[1] == round(100 * (count + 1.6))
    colour = np.asarray(pack.examples(3)[0].image, int).reshape(-1, 3)[0]
    assert (np.abs(card - colour).sum(-1) < 40).any(), "the strongest image is on it"


def test_what_is_not_there_is_said(client, pack):
    dead = next(row.neuron for row in pack.neurons if row.status == "dead")
    told = client.get(f"/neuron/{dead}.json").json()
    assert told["card"] is None and told["icons"] == {}
    for path in ("32.json", f"{dead}.png", f"{dead}.webp", "3.webp?of=drawn", "3.webp?of=../x", "3.json?m=other"):
        answer = client.get(f"/neuron/{path}")
        assert answer.status_code == 404 and answer.json()["detail"].endswith("."), path
        assert "cache-control" not in answer.headers


def test_a_visitors_own_model_has_no_files(client, serving):
    own = serving.keep_own(copy.copy(serving.first))
    assert serving.of(own.key) is own
    assert client.get("/neuron/3.json", params={"m": own.key}).status_code == 404


def test_any_page_may_show_them_and_browsers_keep_them(client):
    first = client.get("/neuron/3.json")
    assert first.headers["access-control-allow-origin"] == "*" and "max-age" in first.headers["cache-control"]
    again = client.get("/neuron/3.json", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == first.headers["etag"]
    other = client.get("/neuron/4.json", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200 and json.loads(other.content)["neuron"] == 4


def test_the_page_shows_icons_where_neurons_are_named(serving, client, pack):
    model = serving.first
    basket = dock(model, Basket((Edit(3, 1.0),)))
    assert basket.count('src="neuron/3.webp?m=sae"') == 2, "chip and row"
    others = {number for number, _ in model.neighbours(3)}
    shown = neuron_page(model, 3)
    for number in others:
        assert (f'src="neuron/{number}.webp?m=sae"' in shown) == pack.has_icon(number)
    table = rows_of(model, "", "score")
    lines = [line for line in table.split("<tr>") if "cb-mini" in line]
    assert len(lines) == sum(pack.has_icon(row.neuron) for row in pack.neurons)
    assert all('loading="lazy"' in line and 'alt="where neuron' in line for line in lines)
    dead = next(row.neuron for row in pack.neurons if row.status == "dead")
    assert model.icon(dead) is None and f"neuron/{dead}.webp" not in table
