"""A look at activations far from 0, against products by hand."""

import json

import pytest
import torch
from small_run import MemoryActivations

from cbsae_hub import SAE
from cbsae_hub.pipeline.start import look_at_start
from cbsae_hub.trainers.config import SAETrainConfig


def test_neurons_that_no_token_excites_are_counted():
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(8)[2]
    config = SAETrainConfig(d_sae=40, k=3, b_dec_init="zero", group_fractions=None)
    start = look_at_start(MemoryActivations(rows), config)
    directions = SAE(8, 40, "topk", 3, seed=0).W_dec.detach()
    for silent, x in ((start.silent, rows), (start.silent_centred, rows - rows.mean(0))):
        fired = {neuron for token in x @ directions.T for neuron in token.argsort(descending=True)[:3].tolist()}
        assert silent == pytest.approx(1 - len(fired) / 40)
    assert start.severity == pytest.approx((rows.mean(0).norm() / rows.std(0, correction=0).norm()).item(), rel=1e-5)
    assert start.silent > start.silent_centred + 0.1
    assert "start silent, and 0% with b_dec_init mean" in start.doubt(config)
    assert start.doubt(config.replace(b_dec_init="mean")) is None


def test_the_dry_run_says_it_of_a_store_that_is_there(tmp_path, monkeypatch):
    from small_hub import Pictures, make_hub

    from cbsae_hub.data.extraction import extract_activations
    from cbsae_hub.pipeline.dry_run import DryRun

    _, encoder, _, _ = make_hub(tmp_path)
    store = extract_activations(encoder, Pictures(40), tmp_path / "store", source={"id": "pictures", "split": "all"})
    sae = {"activations": str(tmp_path / "store"), "output": str(tmp_path / "sae"), "d_sae": 32, "k": 4, "steps": 10,
           "batch_size": 64, "heldout_fraction": 0.2, "b_dec_init": "zero"}  # fmt: skip
    activations = {"encoder": str(tmp_path / "encoder"), "layer": 1, "tokens": "patches", "images": "me/pictures",
                   "split": "train", "output": sae["activations"]}  # fmt: skip
    recipe = {"activations": activations, "sae": sae, "dry_run": {"images": 40}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run = DryRun(tmp_path / "recipe.yaml")
    run.run()
    start = look_at_start(store, SAETrainConfig(d_sae=32, k=4))
    shapes = {step.name: step.shapes for step in run.steps}
    assert shapes["sae"].endswith(f"; {start}"), run.problems
