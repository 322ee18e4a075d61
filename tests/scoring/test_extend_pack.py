"""What a pack says of added concepts, beside what building it anew and brute force say."""

import numpy as np
import pytest
import torch
from small_hub import CONCEPTS, Pictures, make_bottleneck, make_hub, make_pack

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.extend_pack import extend_pack

ADDED = ["blue", "up above"]


class Columns(Pictures):
    column_names = ("image", "caption")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    sae, encoder, judge, _ = make_hub(folder)
    cb = make_bottleneck(sae, encoder, folder)
    images = Columns()
    scorer = NeuronScorer(cb, encoder, judge, {"c": CONCEPTS}, truth=Truth.read(images, {}))
    pack = make_pack(scorer, images, folder / "bottleneck", source={}, alt_column="caption")
    store = extract_activations(encoder, images, folder / "activations", source={}, dtype="float32")
    torch.manual_seed(1)
    wider = cb.with_concepts(ADDED)
    x = encoder(images[:]["image"])
    return pack, cb, wider, encoder, judge, images, store, judge.embed_images(images[:]["image"]), x


@pytest.fixture(scope="module")
def extended(world):
    pack, _, wider, encoder, judge, images, store, embeddings, _ = world
    return extend_pack(pack, wider, store, images, encoder, embeddings, judge.embed_texts)


def latents_of(wider, x):
    """What the decoder reads of the added concepts, ``[images, tokens, added]``, concept by concept."""
    with torch.no_grad():
        c = (x - wider.b_dec) @ wider.W_enc_cb
    gated = torch.zeros_like(c)
    for image in range(len(c)):
        for token in range(c.shape[1]):
            best = int(c[image, token].argmax())  # cb_k is 1
            gated[image, token, best] = max(0.0, float(c[image, token, best]))
    return gated[..., -len(ADDED) :]


def test_rows_are_those_of_brute_force(world, extended):
    pack, cb, wider, _, judge, images, _, embeddings, x = world
    latents = latents_of(wider, x)
    concepts = list(dict.fromkeys([*CONCEPTS, *ADDED]))
    similar = (embeddings @ judge.embed_texts(concepts).T).double().numpy()
    s = (similar - similar.mean(0)) ** 3
    for place, name in enumerate(ADDED):
        row = extended.neurons[cb.d_latent + place]
        tokens = latents[..., place].flatten().numpy()
        mean = latents[..., place].mean(1).numpy().astype(float)
        z = (mean - mean.mean()) ** 3
        fits = (z / max(np.linalg.norm(z), 1e-3)) @ (s / np.maximum(np.linalg.norm(s, axis=0), 1e-3))
        best = np.argsort(-fits)[:5]
        assert row.kind == "cb" and row.designated == name and row.added
        assert list(row.names) == [concepts[i] for i in best]
        np.testing.assert_allclose(row.scores, fits[best], atol=1e-6)
        assert row.null_percentile == pytest.approx((fits < fits[concepts.index(name)]).mean())
        assert row.density == pytest.approx((mean > 0).mean())
        assert row.token_density == pytest.approx((tokens > 0).mean())
        assert row.max == pytest.approx(tokens.max(), rel=1e-5)
        assert sum(row.histogram) == (tokens > 0).sum()
        p99 = np.quantile(tokens[tokens > 0], 0.99, method="inverted_cdf")
        assert row.p99 == pytest.approx(p99, rel=0.023)
        assert np.isnan(row.monosemanticity) and np.isnan(row.interpretability) and row.truth is None
        top = extended.examples(row.neuron, "top", 9)
        order = sorted(range(len(mean)), key=lambda i: (-mean[i], i))
        assert [example.image_id for example in top] == [i for i in order[:9] if mean[i] > 0]
        for example in top:
            expected = latents[example.image_id, :, place].numpy().reshape(example.patch_map.shape) / tokens.max()
            np.testing.assert_allclose(example.patch_map, expected, atol=1 / 255)
            assert example.alt == images["caption"][example.image_id]


def test_what_was_there_stays(world, extended):
    pack, cb, *_ = world
    assert len(pack.neurons) == cb.d_latent and len(extended.neurons) == cb.d_latent + len(ADDED)
    before = pack.neurons.frame
    after = extended.neurons.frame.head(len(before))
    for column in before.columns:
        left, right = before[column].tolist(), after[column].tolist()
        assert all(np.array_equal(a, b, equal_nan=isinstance(a, float)) for a, b in zip(left, right)), column
    for strip in ("top", "random"):
        for neuron in (0, 7):
            old, new = pack.examples(neuron, strip), extended.examples(neuron, strip)
            assert [e.image_id for e in old] == [e.image_id for e in new]
            assert all(np.array_equal(a.patch_map, b.patch_map) for a, b in zip(old, new))


def test_added_concepts_are_found_by_what_they_were_trained_for(extended, world):
    cb = world[1]
    found = extended.find("up above").matches
    assert cb.d_latent + 1 in [match.neuron for match in found]


def test_what_does_not_fit_is_an_error(world):
    pack, cb, wider, encoder, judge, images, store, embeddings, _ = world
    with pytest.raises(ValueError, match="same images"):
        extend_pack(pack, wider, store, images, encoder, embeddings[1:], judge.embed_texts)
    with pytest.raises(ValueError, match="knows all concepts"):
        extend_pack(pack, cb, store, images, encoder, embeddings, judge.embed_texts)
