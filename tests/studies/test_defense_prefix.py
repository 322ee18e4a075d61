"""The prefix against the text tower run by hand, the loss written out, and what training must keep."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from steerable_models import clip, tokenizer
from torch.testing import assert_close
from transformers import AutoTokenizer, CLIPModel

from cbsae_hub.encoders.prompts import embed_prompts
from cbsae_hub.studies.defense_prefix import DefensePrefix

EMOJI_CLIP = Path(__file__).parents[2] / "hub" / "emoji-clip"
CLASSES = ["dog", "owl", "pie"]


@pytest.fixture(scope="module")
def model():
    model = clip()
    model.logit_scale.data.fill_(4.0)
    return model


@torch.no_grad()
def by_hand(model, before, vector, after):
    """The text tower on embeddings of letters with a vector between them, one text at a time."""
    tower, letters = model.text_model, tokenizer(16)
    halves = [letters(text, return_tensors="pt").input_ids[0] for text in (before, after)]
    rows = [tower.embeddings.token_embedding(ids) for ids in halves]
    x = (
        torch.cat([rows[0], vector[None], rows[1]])
        + tower.embeddings.position_embedding.weight[: sum(map(len, rows)) + 1]
    )
    mask = torch.full((len(x), len(x)), -1e9).triu(1)[None, None]
    for layer in tower.encoder.layers:
        x = layer(x[None], attention_mask=mask)[0]
    end = torch.cat(
        [halves[0], torch.zeros(1, dtype=torch.long), halves[1]]
    ).argmax()  # where a CLIP of this kind reads
    return F.normalize(model.text_projection(tower.final_layer_norm(x)[end]), dim=0)


def test_the_vector_stands_before_the_name_in_every_prompt(model):
    prefix = DefensePrefix(model, tokenizer(16), seed=3)
    assert prefix.vector.std() < 0.05
    prefix.vector.data = torch.linspace(-1, 1, 16)
    one = torch.stack([by_hand(model, "a ", prefix.vector.detach(), f"{name}.") for name in CLASSES])
    other = torch.stack([by_hand(model, "", prefix.vector.detach(), f"{name} it") for name in CLASSES])
    assert_close(prefix.texts(CLASSES, ["a {}."]).detach(), one, atol=1e-5, rtol=1e-4)
    both = prefix.texts(CLASSES, ["a {}.", "{} it"]).detach()
    assert_close(both, F.normalize(one + other, dim=-1), atol=1e-5, rtol=1e-4)
    plain = embed_prompts(model, tokenizer(16), CLASSES, ["a {}."], None)
    assert (both - plain).abs().max() > 0.01
    with pytest.raises(ValueError, match="longer than the 16 tokens that the model reads: shorten the template"):
        prefix.texts(CLASSES, ["a very long way to say {}"])


def test_the_loss_is_the_papers(model):
    generator = torch.Generator().manual_seed(0)
    clean, attacked, texts, plain = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (4, 4, 3, 3))
    labels, scale = [2, 0, 1, 1], model.logit_scale.exp().item()
    expected = 0.0
    for i, label in enumerate(labels):
        expected -= (scale * attacked[i] @ texts.T).softmax(0)[label].log().item() / 4
        p, q = ((scale * clean[i] @ names.T).softmax(0) for names in (plain, texts))
        expected += sum((p[c] * (p[c] / q[c]).log()).item() for c in range(3)) / 4
    loss = DefensePrefix(model, tokenizer(16)).loss(clean, attacked, torch.tensor(labels), texts, plain)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_training_defends_and_leaves_clean_pictures_their_answers():
    """Of the shipped CLIP. Clean pictures lie at the names of their classes, attacked ones nearer to the next name."""
    model, words = CLIPModel.from_pretrained(EMOJI_CLIP), AutoTokenizer.from_pretrained(EMOJI_CLIP)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    classes, template = ["dog", "owl", "pizza", "boat", "kite", "moon"], ["a photo of a {}"]
    texts = embed_prompts(model, words, classes, template, None)
    labels = torch.arange(60) % 6
    noise = 0.05 * torch.randn(60, texts.shape[1], generator=torch.Generator().manual_seed(1))
    clean = F.normalize(texts[labels] + noise, dim=-1)
    attacked = F.normalize(texts[labels] + 1.05 * texts[(labels + 1) % 6] + noise, dim=-1)
    prefix = DefensePrefix(model, words)
    losses = prefix.fit(clean, attacked, labels, classes, template, epochs=20, batch=30)
    learnt = prefix.texts(classes, template).detach()

    def right(images, names):
        return ((images @ names.T).argmax(1) == labels).float().mean().item()

    assert right(clean, learnt) >= right(clean, texts) - 0.05, "clean pictures must not suffer"
    assert right(attacked, texts) < 0.5 and right(attacked, learnt) > right(attacked, texts) + 0.1
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
