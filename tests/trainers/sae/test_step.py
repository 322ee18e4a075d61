import pytest
import torch

from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.step import DeadNeurons, SparseStep

VARIANTS = [("topk", False), ("topk", True), ("batch_topk", False), ("batch_topk", True)]


def written_out_loss(sae, x, weight, alpha, dead):
    """The definition, in dense operations and in this file alone; dead neurons that fire are not dead."""
    preactivations = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    rows = preactivations if sae.activation == "topk" else preactivations.reshape(1, -1)
    kept = rows.topk(sae.k * len(x) // len(rows)).indices
    mask = torch.zeros_like(rows).scatter(1, kept, 1).view_as(preactivations)
    latents = preactivations * mask
    reconstruction, loss, start = sae.b_dec, 0, 0
    for size in sae.group_sizes or (sae.d_sae,):
        group = slice(start, start + size)
        reconstruction = reconstruction + latents[:, group] @ sae.W_dec[group]
        loss = loss + weight * ((x - reconstruction) ** 2).sum(1).mean()
        start += size
    dead = dead & ~(latents > 0).any(0)
    auxiliary = x.new_zeros(())
    if dead.any():
        residual = (x - reconstruction).detach()
        values, indices = preactivations[:, dead].topk(min(sae.d_in // 2, int(dead.sum())))
        chosen = torch.zeros_like(preactivations[:, dead]).scatter(1, indices, values)
        error = ((residual - chosen @ sae.W_dec[dead]) ** 2).sum(1).mean()
        auxiliary = error / ((residual - residual.mean(0)) ** 2).sum(1).mean()
    return loss + alpha * auxiliary, loss, auxiliary


def weaken(sae, neurons):
    """Pre-activations that stay positive for some tokens, but never win."""
    with torch.no_grad():
        sae.W_enc[:, neurons] *= 0.05
        sae.b_enc[neurons] = 0.01
    return sae


def counter(dead):
    neurons = DeadNeurons(len(dead), after_tokens=1000)
    neurons.silent_tokens[dead] = 1000
    return neurons


def gradients(sae):
    return {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}


@pytest.mark.parametrize(("activation", "groups"), VARIANTS)
@pytest.mark.parametrize("reduction", ["dictionary_learning", "mean", "sum"])
@pytest.mark.parametrize("n_dead", [0, 4, 20])
def test_gradients_equal_autograd_of_the_written_out_loss(make_sae, x, activation, groups, reduction, n_dead):
    dead = torch.zeros(48, dtype=torch.bool)
    dead[torch.randperm(48, generator=torch.Generator().manual_seed(3))[:n_dead]] = True
    expected_sae = weaken(make_sae(activation, groups), dead)
    n_groups = 3 if groups else 1
    weight = {"dictionary_learning": n_groups**-2, "mean": 1 / n_groups, "sum": 1}[reduction]
    total, reconstruction, auxiliary = written_out_loss(expected_sae, x, weight, 0.7, dead)
    total.backward()
    expected = gradients(expected_sae)

    sae = weaken(make_sae(activation, groups), dead)
    config = SAETrainConfig(matryoshka_reduction=reduction, auxk_alpha=0.7)
    step = SparseStep(sae, config, counter(dead))
    for _ in range(2):  # the second time the selection starts from the first one's threshold
        step.dead_neurons = counter(dead)
        loss = step(x)
        assert (auxiliary > 0) == (n_dead > 0)
        torch.testing.assert_close(loss.total, total.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(loss.reconstruction, reconstruction.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(loss.auxiliary, auxiliary.detach(), rtol=1e-12, atol=0)
        for name, gradient in gradients(sae).items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradient, expected[name], rtol=1e-11, atol=1e-14, msg=name)
