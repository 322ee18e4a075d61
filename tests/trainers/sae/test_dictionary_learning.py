"""Parity with the reference implementation, where it is installed (``make test-peers``)."""

import pytest
import torch

from cbsae_hub import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.state import SAEState
from cbsae_hub.trainers.sae.trainer import geometric_median

reference = pytest.importorskip("dictionary_learning.trainers.matryoshka_batch_top_k")


def test_training_follows_the_reference_step_by_step():
    config = SAETrainConfig(
        d_sae=64, k=4, lr=1e-2, warmup_steps=4, steps=100, batch_size=32, threshold_start=5, threshold_decay=0.9
    )
    sae = SAE(16, 64, "batch_topk", 4, config.group_sizes(16), seed=0)
    trainer = reference.MatryoshkaBatchTopKTrainer(
        steps=100,
        activation_dim=16,
        dict_size=64,
        k=4,
        layer=0,
        lm_name="",
        group_fractions=list(config.group_fractions),
        lr=1e-2,
        auxk_alpha=0.03,
        warmup_steps=4,
        threshold_beta=0.9,
        threshold_start_step=5,
        device="cpu",
    )
    trainer.ae.W_dec.data.copy_(sae.W_dec.data)
    trainer.ae.W_enc.data.copy_(sae.W_enc.data)
    state = SAEState(sae, config)
    trainer.dead_feature_threshold = state.dead_neurons.after_tokens = 100
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        x = torch.randn(32, 16, generator=generator) @ torch.diag(torch.linspace(0.1, 1, 16)) + 1
        if step == 0:
            sae.b_dec.data.copy_(geometric_median(x))
        loss, _ = state.update(x)
        assert loss.total.item() == pytest.approx(trainer.update(step, x), rel=1e-4)
        assert len(state.dead_neurons.dead) == trainer.dead_features
        assert sae.threshold.item() == pytest.approx(float(trainer.ae.threshold), rel=1e-3)
    assert state.dead_neurons.share > 0 and sae.threshold > 0
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        torch.testing.assert_close(getattr(sae, name).data, getattr(trainer.ae, name).data, atol=2e-3, rtol=0)
