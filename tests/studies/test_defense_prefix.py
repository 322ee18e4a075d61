"""The prefix against the text tower run by hand, the loss written out, and what training must keep."""

import pytest
import torch
import torch.nn.functional as F
from steerable_models import clip, tokenizer
from torch.testing import assert_close

from cbsae_hub.encoders.prompts import embed_prompts
from cbsae_hub.studies.defense_prefix import DefensePrefix

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


def test_training_defends_and_leaves_clean_pictures_their_answers(model):
    """Clean pictures lie at the names of their classes; attacked ones are pushed to the next class's."""
    letters, weights = tokenizer(16), {name: value.clone() for name, value in model.state_dict().items()}
    texts = embed_prompts(model, letters, CLASSES, ["a {}."], None)
    labels = torch.arange(60) % 3
    noise = 0.02 * torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    clean = F.normalize(texts[labels] + noise, dim=-1)
    attacked = F.normalize(texts[labels] + 1.1 * texts[(labels + 1) % 3] + noise, dim=-1)
    prefix = DefensePrefix(model, letters, seed=1)
    losses = prefix.fit(clean, attacked, labels, CLASSES, ["a {}."], epochs=40, batch=30, rate=0.02)
    assert losses[-1] < losses[0] - 0.05
    learnt = prefix.texts(CLASSES, ["a {}."]).detach()

    def right(images, names):
        return ((images @ names.T).argmax(1) == labels).float().mean().item()

    assert right(clean, texts) > 0.95 and right(attacked, texts) < 0.5
    assert right(clean, learnt) >= right(clean, texts) - 0.05, "clean pictures must not suffer"
    assert right(attacked, learnt) >= right(attacked, texts)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
