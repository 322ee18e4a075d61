"""The steps of the recipe for LLaVA-1.5-7B at their real shapes, with a random encoder and a few steps each.

Smaller than in the recipe: 2 of the encoder's 24 blocks, 4 images of 24 tokens, batches of 64 tokens, 2 steps.
"""

import resource
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from PIL import Image
from torch.testing import assert_close
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from cbsae_hub import CBSAE, SAE, VisionEncoder
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.neurons.pruning import prune
from cbsae_hub.pipeline import costs
from cbsae_hub.pipeline.recipe import shipped
from cbsae_hub.trainers.cbsae.trainer import CBSAETrainer
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.sae.trainer import SAETrainer, describe

ROOT = Path(__file__).parents[2]

NEEDED, MOST = 9e9, 12e9  # bytes
D_IN, D_SAE, RETAINED, CONCEPTS, CB_K = 1024, 65_536, 30_000, 2_169, 5
FEW = {"steps": 2, "batch_size": 64, "heldout_fraction": 0.25, "mixed_precision": "no"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        psutil.virtual_memory().available < NEEDED, reason=f"needs {NEEDED / 1e9:.0f} GB of free memory"
    ),
]


class Pictures:
    """Four pictures of noise, of a photo's size."""

    def __len__(self):
        return 4

    def __getitem__(self, rows):
        noise = np.random.default_rng(0).integers(0, 256, (4, 300, 400, 3), np.uint8)
        return {"image": [Image.fromarray(pixels) for pixels in noise[rows]]}


@pytest.fixture(scope="module")
def recipe():
    return yaml.safe_load(shipped()["llava-1.5-7b"])


@pytest.fixture(scope="module")
def encoder(recipe):
    torch.manual_seed(0)
    config = CLIPVisionConfig(**{**recipe["dry_run"]["encoder"], "num_hidden_layers": 2})
    processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return VisionEncoder(CLIPVisionModelWithProjection(config), processor, -2, "random:24", "random/clip-large-336")


@pytest.fixture(scope="module")
def store(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return extract_activations(encoder, Pictures(), folder, source={"id": "noise", "split": "train", "revision": None})


@pytest.fixture(scope="module")
def trained(recipe, store, tmp_path_factory):
    settings = {key: value for key, value in recipe["sae"].items() if key not in ("activations", "output")}
    config = SAETrainConfig.from_dict({**settings, **FEW})
    folder = tmp_path_factory.mktemp("sae")
    train, heldout = store.holdout(config.heldout_fraction, config.seed)
    trainer = SAETrainer(config, train, heldout, folder, description=describe(store.manifest))
    before = trainer.sae.W_dec.detach().clone()
    figures = trainer.train()
    return folder, figures, before


def test_the_store_holds_what_leaves_the_block(encoder, store):
    assert (store.d_in, store.tokens_per_image, len(store)) == (D_IN, 24, 96)
    pixels = encoder.pixel_values(Pictures()[:1]["image"])
    assert pixels.shape == (1, 3, 336, 336)
    with torch.no_grad():
        stream = encoder.model(pixels, output_hidden_states=True).hidden_states[1][0]
    assert stream.shape == (577, D_IN)
    distances = torch.cdist(store.read(0, 24).double(), stream.double())
    assert distances.min(1).values.max() < 1e-2 * stream.norm(dim=1).min()


def test_the_sae_is_trained_saved_and_loaded(trained, store):
    folder, figures, before = trained
    sae = SAE.from_pretrained(folder)
    assert (sae.d_in, sae.d_sae, sae.k, sae.group_sizes) == (D_IN, D_SAE, 20, (4096, 8192, 16384, 36864))
    size = (folder / "model.safetensors").stat().st_size
    assert costs.model_bytes(sae) < size < costs.model_bytes(sae) + 2000
    assert figures.l0 == pytest.approx(20, abs=0.1) and figures.tokens == 24
    assert_close(sae.decoder_norms(), torch.ones(D_SAE))
    # The second step's learning rate is 1e-7; rows that did not move were rounded to unit length, by a tenth of that.
    moved = ((sae.W_dec - before).abs() > 3e-8).any(1)
    assert 20 < moved.sum() <= 2 * 64 * 20, "the neurons that were active in one of two batches, and no others"
    x = store.read(0, 5).float()
    with torch.no_grad():
        hidden = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        expected = torch.where(hidden > sae.threshold, hidden, 0.0)
        values, neurons = sae.encode_sparse(x)
        latents = torch.zeros(5, D_SAE).scatter_add_(1, neurons, values)
        assert_close(latents, expected, atol=1e-3, rtol=1e-4)
        assert_close(sae.decode_sparse(values, neurons), expected @ sae.W_dec + sae.b_dec, atol=1e-3, rtol=1e-4)


def test_the_bottleneck_is_trained_saved_and_loaded(recipe, trained, store, tmp_path):
    parent = SAE.from_pretrained(trained[0])
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
    scores = pd.DataFrame(rng.random((D_SAE, 2)), columns=["interpretability", "steerability"])
    pruned = prune(scores.assign(neuron=range(D_SAE)), **recipe["cbsae"]["prune"])
    assert len(pruned.keep) == RETAINED
    cb = CBSAE.from_sae(parent, pruned.keep, [f"concept {i}" for i in range(CONCEPTS)], CB_K, seed=0)
    config = CBSAETrainConfig.from_dict({**FEW, "lr": float(recipe["cbsae"]["lr"])})
    images, texts = (
        torch.nn.functional.normalize(torch.randn(count, 512, generator=generator), dim=1) for count in (4, CONCEPTS)
    )
    train, heldout = store.holdout(config.heldout_fraction, config.seed)
    figures = CBSAETrainer(config, cb, train, heldout, images.half(), texts, tmp_path / "cb").train()
    assert figures.tokens == 24

    loaded = CBSAE.from_pretrained(tmp_path / "cb")
    assert (loaded.d_latent, loaded.sae_neuron_ids) == (RETAINED + CONCEPTS, pruned.keep)
    size = (tmp_path / "cb" / "model.safetensors").stat().st_size
    assert costs.model_bytes(loaded) < size < costs.model_bytes(loaded) + 2000
    assert torch.equal(loaded.sae.W_dec, parent.W_dec[pruned.keep])
    assert not torch.equal(loaded.W_enc_cb, cb.W_enc_cb), "it was trained"
    x = store.read(0, 5).float()
    with torch.no_grad():
        latents = loaded.encode(x)
        c = (x - parent.b_dec) @ loaded.W_enc_cb
        assert_close(latents[:, :RETAINED], parent.encode(x)[:, pruned.keep], atol=1e-3, rtol=1e-4)
        assert_close(latents[:, RETAINED:], c, atol=1e-3, rtol=1e-4)
        cut = c.sort(dim=1, descending=True).values[:, CB_K - 1 : CB_K]
        read = torch.where(c >= cut, c, 0.0).relu()
        expected = latents[:, :RETAINED] @ loaded.sae.W_dec + parent.b_dec + read @ loaded.W_dec_cb
        assert_close(loaded.decode(latents), expected, atol=1e-3, rtol=1e-4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST
