"""Neurons of a text encoder whose words are planted: names, contexts and the pack."""

import numpy as np
import pytest
import torch
from text_sae import PLANTED, PROMPTS, planted

from cbsae_hub import SAE, Pack
from cbsae_hub.data.texts import Texts
from cbsae_hub.encoders import explained_encoder, explained_tower
from cbsae_hub.encoders.passages import Passage
from cbsae_hub.pipeline.pack import make_pack
from cbsae_hub.pipeline.sections import WordsSection
from cbsae_hub.pipeline.words import score_words
from cbsae_hub.scoring.words import WordScorer, context_of, words_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("words"))


def test_words_of_rows():
    passage = Passage("A Dog's life, 日本", [(0, 0), (0, 1), (2, 4), (4, 7), (8, 12), (12, 13), (13, 16), (0, 0)])
    rows, words = words_of(passage)
    assert [words[row] for row in rows] == ["<no word>", "a", "dog's", "dog's", "life", ",", "日本", "<no word>"]
    assert len(words) == 6


def test_a_context_is_cut_around_the_strongest_token():
    passage = Passage("x" * 200 + "dog" + "y" * 200, [(0, 1), (200, 203), (205, 206)])
    context = context_of(passage, torch.tensor([0.5, 2.0, 1.0]).numpy())
    assert context["activation"] == 2.0 and len(context["passage"]) == 183 and context["strengths"] == [2.0, 1.0]
    marked = [context["passage"][a:b] for a, b in zip(context["starts"], context["stops"])]
    assert marked == ["dog", "y"]


def test_planted_words_are_found_and_packed(folder):
    settings = WordsSection(model=str(folder / "sae"), images=str(folder / "prompts.txt"), output=folder / "scores")
    scores = score_words(settings)
    frame = scores.neurons
    encoder = explained_tower(SAE.from_pretrained(folder / "sae"))
    with torch.no_grad():
        latents = [SAE.from_pretrained(folder / "sae").encode(v) for v in encoder(PROMPTS)]
    assert frame["name"][:2].tolist() == PLANTED and frame["status"][2] == "dead" and frame["names"][2] == []
    assert frame["density"].tolist() == pytest.approx(
        torch.stack([(z > 0).any(0) for z in latents]).double().mean(0).tolist()
    )
    assert frame["max"][0] == pytest.approx(max(float(z[:, 0].max()) for z in latents), rel=1e-5)
    strongest = max(range(len(PROMPTS)), key=lambda i: float(latents[i][:, 1].max()))
    pack = make_pack(folder / "scores")
    first = pack.contexts(1)[0]
    assert first.passage == PROMPTS[strongest] and first.text_id == strongest and pack.of_texts
    marked = {first.passage[a:b] for a, b in zip(first.starts, first.stops)}
    assert "h" in marked and pack.contexts(2) == []
    assert Pack.from_pretrained(folder / "sae").neurons.find("hut")[0].neuron == 1
    with pytest.raises(ValueError, match="explains words tokens of the text tower"):
        explained_encoder(SAE.from_pretrained(folder / "sae"))


def test_scores_do_not_depend_on_batches(folder):
    sae = SAE.from_pretrained(folder / "sae")
    a, b = (WordScorer(sae, explained_tower(sae)).run(Texts(PROMPTS), size) for size in (3, 64))
    assert a.neurons["name"].tolist() == b.neurons["name"].tolist() and a.contexts.drop(
        columns=["activation", "strengths"]
    ).equals(b.contexts.drop(columns=["activation", "strengths"]))
    for column in ("score", "density", "max", "token_density"):
        np.testing.assert_allclose(a.neurons[column], b.neurons[column], rtol=1e-4)
