"""What a browser asks for, whatever it sends: by an address, with what it keeps of its visitor's own."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cbsae_hub.studio.server.address import NO_CONCEPTS, NO_IMAGE, AddressRequest
from cbsae_hub.studio.server.session import upload_record
from cbsae_hub.studio.view.images import ImageStore


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def asked(says, mine=None):
    return AddressRequest.of(SimpleNamespace(says=says, changed=list(says), mine=mine or {}))


@pytest.mark.parametrize("bad", [None, 7, "x", ["x"], {"q": 7}, {"q": ["pizza"]}, [{}], {1: {}}])
def test_anything_may_be_sent(serving, bad):
    event = SimpleNamespace(says=bad, changed=bad, mine=bad)
    found = AddressRequest.of(event)
    assert all(isinstance(text, str) for text in found.texts.values()) and found.keys <= {"q"}
    assert found.model(serving) == (serving.first, [])
    assert found.images(ImageStore()) == ({}, {}, [])
    assert AddressRequest.of(SimpleNamespace()).texts == {}


def test_models_are_those_of_the_page_or_the_visitors_own(serving, shipped):
    assert asked({}).model(serving) == (shipped, [])
    assert asked({"m": "emoji-sae"}).model(serving) == (serving.of("emoji-sae"), [])
    for name in ("/etc", "../hub/emoji-dino", "someone/else", "someone~else"):
        loaded, said = asked({"m": name}).model(serving)
        assert loaded is shipped and "does not have the model" in said[0]
    own = serving.keep_own(shipped.extended(shipped.sae, shipped.pack))
    secret = own.key.split("~")[1]
    assert own.key.startswith("emoji-cbsae~") and serving.of(own.key) is own
    here = {"zk3f9": {"name": own.key}}
    assert asked({"m": "emoji-cbsae~zk3f9"}, here).model(serving) == (own, [])
    for mine in ({}, {"zk3f9": None}, {"zk3f9": {"name": secret}}, {"zk3f9": {"name": f"emoji-sae~{secret}"}}):
        assert asked({"m": "emoji-cbsae~zk3f9"}, mine).model(serving) == (shipped, [NO_CONCEPTS])
    assert asked({"m": f"emoji-sae~{secret}"}, {secret: {"name": own.key}}).model(serving)[0] is not own


def test_a_picture_is_brought_back_exactly_and_once(picture):
    pictures = ImageStore()
    name = pictures.keep(picture)
    kept = json.loads(upload_record(name, pictures.get(name, None)))
    found = asked({"pic": "mine~k3f9", "seen": "mine~k3f9"}, {"k3f9": kept})
    texts, names, messages = found.images(pictures)
    assert (texts, messages) == ({"pic": "white", "seen": ""}, [])
    assert names == {"image": name, "inspected_image": name}, "it is still there"
    after = ImageStore()  # the server was started anew
    found = asked({"pic": "mine~k3f9", "seen": "mine~k3f9"}, {"k3f9": dict(kept)})
    _, names, messages = found.images(after)
    assert messages == []
    assert names["image"] == names["inspected_image"] != name
    assert np.array_equal(after.get(names["inspected_image"], None), picture)


@pytest.mark.parametrize(
    ("mine", "told"),
    [
        ({}, NO_IMAGE), ({"k3f9": {"name": "mine~guess"}}, NO_IMAGE), ({"k3f9": {"data": "http://x/a.png"}}, "PNG"),
        ({"k3f9": {"name": ["x"], "data": {"path": "/etc/passwd"}}}, "PNG"), ({"k3f9": 7}, NO_IMAGE),
    ],
)  # fmt: skip
def test_what_is_not_there_any_more_is_told_once(mine, told):
    found = asked({"pic": "mine~k3f9", "seen": "mine~k3f9"}, mine)
    instead, names, said = found.images(ImageStore())
    assert instead == {"pic": "white", "seen": ""} and names == {}
    assert len(said) == 1 and told in said[0]
