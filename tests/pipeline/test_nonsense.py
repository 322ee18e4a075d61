"""The control: what an SAE of random directions is called, computed again from all latents at once."""

import pytest
import torch
import torch.nn.functional as F
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import SAE
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.metrics import soft_wpmi
from cbsae_hub.pipeline.nonsense import Nonsense, name_nonsense

TOP = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nonsense")
    sae, encoder, judge, _ = make_hub(folder)
    store = extract_activations(encoder, Pictures(96), folder / "store", source={"id": "x"}, dtype="float32")
    return sae, store, judge


def test_names_of_random_directions_are_those_of_the_plain_formula(world):
    sae, store, judge = world
    embeddings, texts = judge.embed_images(Pictures(96)[:]["image"]), judge.embed_texts(list(CONCEPTS))
    result = name_nonsense(sae, store, embeddings, texts, TOP, batch_size=7)
    untrained = SAE(store.d_in, sae.d_sae, "topk", sae.k, seed=1)
    untrained.b_dec.data.copy_(sae.b_dec)
    with torch.no_grad():
        latents = untrained.encode(store.read(0, len(store)).float()).unflatten(0, (96, -1)).mean(1)
    scores = soft_wpmi(latents, embeddings @ texts.T, top_k=TOP, count_silent=False).max(1).values
    alive = (latents > 0).any(0)
    assert result.neurons == int(alive.sum())
    assert result.score == pytest.approx(scores[alive].double().quantile(0.95).item(), rel=1e-4)


def test_of_pictures_that_are_all_alike_no_nonsense_fires(world, monkeypatch):
    sae, store, judge = world
    embeddings, texts = judge.embed_images(Pictures(96)[:]["image"]), judge.embed_texts(list(CONCEPTS))
    mean = torch.zeros(store.d_in)
    alike = [([i], mean.expand(1, store.tokens_per_image, -1)) for i in range(96)]
    monkeypatch.setattr(sae.b_dec, "data", mean)
    monkeypatch.setattr(type(store), "of_images", lambda *_: iter(alike))
    assert name_nonsense(sae, store, embeddings, texts, TOP) == Nonsense(0, 0.0, None)


def test_where_the_judge_knows_nothing_names_are_better_than_chance_by_chance(world):
    sae, store, _ = world
    generator = torch.Generator().manual_seed(0)
    embeddings, texts = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (96, 40))
    shares = [
        name_nonsense(sae, store, embeddings[torch.randperm(96, generator=generator)], texts, TOP).share_above_chance
        for _ in range(8)
    ]
    assert 0 <= sum(shares) / len(shares) < 0.2
