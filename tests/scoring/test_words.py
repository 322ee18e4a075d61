"""Neurons of a text encoder whose words are planted: names, contexts, the pack, and the page."""

import re

import pytest
import torch
from steerable_models import ENDS, LETTERS, SPECIAL, TEXT, randomised, tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from cbsae_hub import SAE, Pack
from cbsae_hub.data.texts import Texts
from cbsae_hub.encoders import TextEncoder, explained_encoder, explained_tower
from cbsae_hub.encoders.passages import Passage
from cbsae_hub.pipeline.pack import make_pack
from cbsae_hub.pipeline.sections import WordsSection
from cbsae_hub.pipeline.words import score_words
from cbsae_hub.scoring.words import WordScorer, context_of, words_of
from cbsae_hub.studio.view.html import strips

WORDS = ["dog", "cat", "eel", "owl"]
PROMPTS = [f"{a} {b} <b>" for a in WORDS for b in WORDS if a != b]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text encoder, texts, and an SAE whose neuron 0 reads the first letter of "dog", neuron 1 that of "owl"."""
    folder = tmp_path_factory.mktemp("words")
    settings = {**TEXT, **ENDS, "max_position_embeddings": 16}
    model = randomised(CLIPTextModel(CLIPTextConfig(**settings, vocab_size=len(SPECIAL + LETTERS))))
    (folder / "clip").mkdir()
    model.save_pretrained(folder / "clip")
    tokenizer(16, ends=True).save_pretrained(folder / "clip")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    encoder = TextEncoder.from_pretrained(folder / "clip", layer=0)
    x = torch.cat(encoder(PROMPTS))
    letters = "".join("".join(text[a:b] for a, b in one.spans) for one, text in zip(encoder.passages(PROMPTS), PROMPTS))
    directions = torch.stack([torch.linalg.lstsq(x, _is(letters, first)).solution for first in "do"])
    sae = SAE(16, 3, "relu", provenance=None, seed=0, **_facts(encoder))
    with torch.no_grad():
        sae.b_dec.zero_()
        sae.W_enc.zero_()
        sae.W_enc[:, :2] = directions.T
        sae.b_enc[:] = torch.tensor([-0.5, -0.5, -1.0])
    sae.save_pretrained(folder / "sae")
    return folder


def _facts(encoder):
    return {key: value for key, value in encoder.provenance().items() if value is not None}


def _is(letters, letter):
    return torch.tensor([float(one == letter) for one in letters])


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


def test_planted_words_are_found_and_shown(folder):
    settings = WordsSection(model=str(folder / "sae"), images=str(folder / "prompts.txt"), output=folder / "scores")
    scores = score_words(settings)
    frame = scores.neurons
    encoder = explained_tower(SAE.from_pretrained(folder / "sae"))
    with torch.no_grad():
        latents = [SAE.from_pretrained(folder / "sae").encode(v) for v in encoder(PROMPTS)]
    assert frame["name"][:2].tolist() == ["dog", "owl"] and frame["status"][2] == "dead" and frame["names"][2] == []
    assert frame["density"].tolist() == pytest.approx(
        torch.stack([(z > 0).any(0) for z in latents]).double().mean(0).tolist()
    )
    assert frame["max"][0] == pytest.approx(max(float(z[:, 0].max()) for z in latents), rel=1e-5)
    strongest = max(range(len(PROMPTS)), key=lambda i: float(latents[i][:, 1].max()))
    pack = make_pack(folder / "scores")
    first = pack.contexts(1)[0]
    assert first.passage == PROMPTS[strongest] and first.text_id == strongest and pack.of_texts
    marked = {first.passage[a:b] for a, b in zip(first.starts, first.stops)}
    assert "o" in marked and pack.contexts(2) == []
    assert Pack.from_pretrained(folder / "sae").neurons.find("owl")[0].neuron == 1
    shown = strips(pack, 1)
    assert re.search(r"<mark [^>]*>o</mark>", shown) and "<b>" not in shown, "texts are escaped"
    with pytest.raises(ValueError, match="explains the text tower"):
        explained_encoder(SAE.from_pretrained(folder / "sae"))


def test_scores_do_not_depend_on_batches(folder):
    sae = SAE.from_pretrained(folder / "sae")
    a, b = (WordScorer(sae, explained_tower(sae)).run(Texts(PROMPTS), size) for size in (3, 64))
    for column in ("name", "score", "density", "max", "top_images"):
        assert a.neurons[column].tolist() == pytest.approx(b.neurons[column].tolist(), rel=1e-5) or (
            a.neurons[column].tolist() == b.neurons[column].tolist()
        )
    assert a.contexts["passage"].tolist() == b.contexts["passage"].tolist()
