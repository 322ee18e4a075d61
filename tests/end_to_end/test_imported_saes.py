"""SAEs of every format, with and without normalised tokens, through the package: pack, page, steering, a bottleneck."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign_files import (
    Weights,
    dl_matryoshka,
    prisma_vanilla,
    saelens_constant_norm,
    saelens_jumprelu,
    saev_topk,
    sparsify,
)
from small_hub import CONCEPTS, Pictures, make_hub, make_pack

import cbsae_hub
from cbsae_hub import CBSAE, Pack
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.scorer import explained_encoder
from cbsae_hub.steering import Edit, Steering, apply
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.trainers.cbsae.trainer import add_concepts
from cbsae_hub.trainers.config import CBSAETrainConfig

WRITERS = [saelens_jumprelu, saelens_constant_norm, dl_matryoshka, sparsify, saev_topk, prisma_vanilla]
PICTURES = Pictures(24)
WHERE = {"encoder_id": "me/encoder", "layer": 1, "tokens": "patches"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """An encoder and a judge, beside which models are put."""
    folder = tmp_path_factory.mktemp("hub")
    return folder, *make_hub(folder)


@pytest.fixture(params=WRITERS, ids=lambda write: write.__name__)
def theirs(request, hub, tmp_path):
    """Somebody else's SAE of the encoder's width: its file, and the folder that it is saved in as ours."""
    golden = request.param(tmp_path / "theirs", Weights(16, 32))
    shutil.rmtree(hub[0] / "imported", ignore_errors=True)
    return golden, hub[0] / "imported"


@torch.no_grad()
def test_an_imported_sae_goes_all_the_way(hub, theirs):
    _, _, encoder, judge, _ = hub
    golden, folder = theirs
    sae = cbsae_hub.load(golden.path, **WHERE)
    sae.save_pretrained(folder)
    x = encoder(PICTURES[:]["image"])
    z, decoded = sae(x)

    # scores and pack
    scorer = NeuronScorer(sae, explained_encoder(sae, beside=folder), judge, {"colours": CONCEPTS},
                          truth=Truth.read(PICTURES, {"colour": "things.name"}))  # fmt: skip
    pack = make_pack(scorer, PICTURES, folder, source={"id": "halves"}, alt_column="caption")
    error, spread = (x - decoded).square().sum(), (x - x.flatten(0, 1).mean(0)).square().sum()
    facts = pack.info["scores"]["reconstruction"]
    assert facts["explained_variance"] == pytest.approx(1 - (error / spread).item(), rel=1e-3)
    assert facts["l0"] == pytest.approx((z > 0).float().sum(-1).mean().item(), rel=1e-4)
    neuron = int(z.mean((0, 1)).argmax())
    best = z.mean(1)[:, neuron].argsort(descending=True)
    assert pack.examples(neuron, "top", 3)[0].image_id == best[0]
    assert pack.neurons[neuron].max == pytest.approx(z[..., neuron].max().item(), rel=1e-3)

    # the page
    loaded = LoadedModel(folder)
    assert loaded.sae.imported_from == sae.imported_from
    assert len(Pack.from_pretrained(folder).neurons[neuron].names) > 0
    seen = loaded.inspect(PICTURES[0]["image"])
    np.testing.assert_allclose(seen.latents.sum(0), z[0][:, seen.active.tolist()].sum(0), rtol=1e-3, atol=1e-3)
    size = (x[0] - sae.decode(torch.zeros_like(z[0]), like=x[0])).square().sum(1)
    np.testing.assert_allclose(seen.token_error, (x[0] - decoded[0]).square().sum(1) / size, rtol=1e-3, atol=1e-4)

    # steering by the neuron's name
    changed = z.clone()
    changed[..., neuron] = 4.0
    steered = apply(Steering([Edit(neuron, 4.0)]), x, sae, pack, prefix=0)
    torch.testing.assert_close(steered, sae.decode(changed, like=x), rtol=1e-3, atol=1e-3)


def test_a_bottleneck_is_trained_beside_it(hub, theirs, tmp_path):
    _, _, encoder, judge, _ = hub
    golden, folder = theirs
    sae = cbsae_hub.load(golden.path, **WHERE | {"encoder_id": encoder.repo_id})
    pictures = Pictures(48)
    store = extract_activations(encoder, pictures, tmp_path / "store", source={"id": "halves"}, dtype="float32")
    embeddings = judge.embed_images(pictures[:]["image"])
    config = CBSAETrainConfig(steps=40, batch_size=96, lr=1e-2, start="ridge", unit_rows=True)
    cb = CBSAE.from_sae(sae, range(0, 32, 2), ["red"], 2, seed=0)
    trained = add_concepts(cb, ["right", "blue"], store, embeddings, judge.embed_texts, config=config)
    assert trained.concepts == ["red", "right", "blue"]
    x = encoder(pictures[:]["image"]).flatten(0, 1)
    answers = (embeddings @ judge.embed_texts(["right"]).T).repeat_interleave(len(x) // 48, 0)[:, 0]
    with torch.no_grad():
        before, after = (model.concept_activations(x)[:, -2:] for model in (cb.with_concepts(["a", "b"]), trained))
        out = trained(x)
    similar = [np.corrcoef(c[:, 0], answers)[0, 1] for c in (before, after)]
    assert similar[1] > max(similar[0], 0.1)
    trained.save_pretrained(folder)
    again = cbsae_hub.load(folder)
    assert isinstance(again, CBSAE) and again.imported_from["format"] == sae.imported_from["format"]
    assert torch.equal(again(x).reconstruction, out.reconstruction)


def test_without_an_encoder_it_is_said_what_is_missing(hub, theirs):
    golden, folder = theirs
    sae = cbsae_hub.load(golden.path, encoder_id="me/encoder", layer=1)
    sae.provenance = replace(sae.provenance, tokens=None)
    with pytest.raises(ValueError, match=r"load it with tokens=\.\.\."):
        explained_encoder(sae, beside=folder)
