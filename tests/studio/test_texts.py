"""The page of a model of texts: its Neuron tab shows texts, and pictures are refused."""

import re

import pytest
from text_sae import planted

from cbsae_hub.pipeline.pack import make_pack
from cbsae_hub.pipeline.sections import WordsSection
from cbsae_hub.pipeline.words import score_words
from cbsae_hub.studio.page import build
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.tabs.neuron import neuron_page


def test_the_page_shows_texts_and_refuses_pictures(tmp_path):
    model, texts = str(planted(tmp_path) / "sae"), str(tmp_path / "prompts.txt")
    score_words(WordsSection(model=model, images=texts, output=tmp_path / "scores"))
    make_pack(tmp_path / "scores")
    first = Serving([model]).first
    shown = neuron_page(first, 0)
    assert re.search(r"<mark [^>]*>d</mark>", shown) and "tokens on which it fires" in shown
    assert "&lt;b&gt;" in shown and "<b>" not in shown, "texts are escaped"
    with pytest.raises(Refused, match="reads texts, not pictures"):
        first.inspect(None)
    first.warm_up()
    assert len(build(model).blocks) > 50
