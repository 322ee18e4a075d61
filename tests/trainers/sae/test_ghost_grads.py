import pytest
import torch

from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.step import AutogradStep, DeadNeurons, SparseStep

DEAD = [3, 11, 30]


def silenced(sae):
    """The SAE with three neurons that never fire."""
    with torch.no_grad():
        sae.W_enc[:, DEAD] *= 0.05
        sae.b_enc[DEAD] = -0.5
    return sae


def step_of(sae, **settings):
    neurons = DeadNeurons(sae.d_sae, after_tokens=1000)
    neurons.silent_tokens[DEAD] = 1000
    kind = SparseStep if sae.activation_function.selects_by_rank else AutogradStep
    return kind(sae, SAETrainConfig(activation=sae.activation, **settings), neurons, Processes())


def by_hand(sae, x, residual, size):
    """Loss and gradients of ViT-Prisma's formula, differentiated on paper, token by token."""
    loss = 0.0
    grads = {name: torch.zeros_like(parameter) for name, parameter in sae.named_parameters()}
    for token, r in zip(x, residual):
        weights = torch.stack([sae.W_enc[:, j] for j in DEAD])
        e = torch.exp(weights @ (token - sae.b_dec) + sae.b_enc[DEAD])
        g = sum(value * sae.W_dec[j] for value, j in zip(e, DEAD))
        scale = r.norm() / (2 * g.norm() + 1e-6)
        length = (r - residual.mean(0)).norm()
        errors = (scale * g - r) ** 2 / length
        factor = size / (errors + 1e-6)
        loss += (factor * errors).sum() / residual.numel()
        of_g = factor * 2 * (scale * g - r) / length * scale / residual.numel()
        for value, j in zip(e, DEAD):
            of_hidden = (of_g @ sae.W_dec[j]) * value
            grads["W_dec"][j] += value * of_g
            grads["W_enc"][:, j] += of_hidden * (token - sae.b_dec)
            grads["b_enc"][j] += of_hidden
            grads["b_dec"] -= of_hidden * sae.W_enc[:, j]
    return loss, grads


@pytest.mark.parametrize(
    ("activation", "groups"), [("relu", True), ("jumprelu", False), ("topk", False), ("batch_topk", True)]
)
def test_gradients_are_those_of_the_formula_beside_those_without_it(make_sae, x, activation, groups):
    plain = silenced(make_sae(activation, groups))
    without = step_of(plain, auxk_alpha=0.0)(x)
    expected = {name: parameter.grad.clone() for name, parameter in plain.named_parameters()}
    with torch.no_grad():
        residual = x - plain.prefix_reconstructions(plain.train_latents(x).latents)[-1]
        loss, grads = by_hand(plain, x, residual, without.reconstruction)
    assert loss == pytest.approx(without.reconstruction.item(), rel=0.01), "as large as the reconstruction's loss"
    sae = silenced(make_sae(activation, groups))
    result = step_of(sae, revive="ghost_grads")(x)
    torch.testing.assert_close(result.auxiliary, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(result.total, without.total + loss, rtol=1e-10, atol=0)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name] + grads[name], rtol=1e-9, atol=1e-12, msg=name)
    assert (sae.W_enc.grad[:, DEAD].norm(dim=0) > 0).all()


def test_a_gated_sae_has_no_ghosts():
    with pytest.raises(ValueError, match="ghost_grads need .* which a gated SAE does not have"):
        SAETrainConfig.from_dict({"activation": "gated", "revive": "ghost_grads"})
