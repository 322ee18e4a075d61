"""An SAE behind LLaVA's projector is extracted, trained, scored by pictures and packed as that of a vision encoder."""

import datasets
import pytest
import torch
from steerable_models import llava, pictures

from cbsae_hub import SAE
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.texts import Questions
from cbsae_hub.encoders import LanguageEncoder, explained_encoder, explained_tower
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.build_pack import build_pack
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.trainer import SAETrainer


def test_an_sae_behind_the_projector_has_a_pack_with_maps(tmp_path):
    model, processor = llava()
    model.save_pretrained(tmp_path / "llava")
    processor.save_pretrained(tmp_path / "llava")
    images = datasets.Dataset.from_dict({"image": pictures(40)}).cast_column("image", datasets.Image())
    encoder = LanguageEncoder.from_pretrained(tmp_path / "llava", 0, "random:3", "projector")
    store = extract_activations(
        encoder, Questions(images, "what?"), tmp_path / "store", source={"id": "noise"}, batch_size=8, dtype="float32"
    )
    assert (store.tokens_per_image, store.manifest["schema_version"], len(store)) == (3, 1, 120)
    config = SAETrainConfig(
        expansion=1, k=3, steps=15, batch_size=32, warmup_steps=2, heldout_fraction=0.2, dead_after_tokens=1000
    )
    SAETrainer(config, *store.holdout(0.2), tmp_path / "sae").train()
    sae = SAE.from_pretrained(tmp_path / "sae")
    assert (sae.tower, explained_tower(sae).tower, explained_tower(sae).tokens) == ("projector", "projector", "image")
    pictured = explained_encoder(sae)
    scorer = NeuronScorer(sae, pictured, None, {}, truth=Truth.read(images, {}))
    scorer.run(images, 16)
    folder = tmp_path / "sae"
    pack = build_pack(scorer.results(), sae, pictured, images, folder, source={"id": "noise"}, alt_column=None)
    assert pack.grid == (2, 2) and not pack.of_texts
    neuron = int(pack.neurons.frame.sort_values("density")["neuron"].iloc[-1])
    example = pack.examples(neuron)[0]
    with torch.no_grad():
        latents = sae.encode(pictured([images[example.image_id]["image"]])[0])[:, neuron]
    found = torch.tensor(example.patch_map).flatten() * pack.neurons[neuron].max
    torch.testing.assert_close(found, latents, atol=0.02 * float(latents.max()), rtol=0)
    with pytest.raises(ValueError, match="is read at its projector. Patch maps show"):
        pictured.relevance([images[0]["image"]], sae, neuron)
