"""MonoLoss and its gradient against autograd of the sum over all pairs, and against MonoSemanticity."""

import pytest
import torch
from small_run import sparse_combinations, train

from cbsae_hub import SAE
from cbsae_hub.metrics import monosemanticity_score
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.mono_loss import mono_loss
from cbsae_hub.trainers.sae.step import AutogradStep, DeadNeurons, SparseStep


def pairwise(latents, x):
    """The definition: pair by pair of tokens, neuron by neuron."""
    units = x / x.norm(dim=1, keepdim=True)
    cosines, scores = units @ units.T, []
    for a in latents.T:
        if (a > 0).sum() >= 2:
            weights = torch.tril(torch.outer(a, a), -1)
            scores.append((weights * cosines).sum() / weights.sum())
    return 1 - torch.stack(scores).mean()


def some_latents(seed=0, tokens=9, neurons=7):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(tokens, neurons, generator=generator, dtype=torch.float64).relu()
    latents[:, 5] = 0
    latents[1:, 6] = 0  # on one token alone
    latents[0, 6] = 2
    return latents, torch.randn(tokens, 4, generator=generator, dtype=torch.float64) + 1


def active_of(latents):
    tokens, neurons = latents.nonzero().T
    return tokens, neurons, latents[tokens, neurons]


def test_equals_the_sum_over_pairs_with_its_gradient():
    latents, x = some_latents()
    expected = pairwise(latents.requires_grad_(), x)
    expected.backward()
    tokens, neurons, values = active_of(latents.detach())
    loss, gradient = mono_loss(x, tokens, neurons, values, 7)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, latents.grad[tokens, neurons], rtol=1e-10, atol=1e-14)
    assert gradient[neurons == 6].tolist() == [0.0]
    score = monosemanticity_score(latents.detach(), x)
    torch.testing.assert_close(loss, 1 - score[~score.isnan() & (torch.arange(7) != 6)].mean(), rtol=1e-10, atol=0)


def test_two_halves_of_a_batch_have_the_loss_and_gradient_of_the_whole():
    latents, x = some_latents(1)
    whole = mono_loss(x, *active_of(latents), 7)

    class Halves(Processes):
        """Adds what the other half has put into its sums, in the order of the calls."""

        def __init__(self, others):
            super().__init__()
            self.others, self.own = iter(others), []

        def sum_(self, tensor):
            self.own.append(tensor.clone())
            return tensor.add_(next(self.others, torch.zeros_like(tensor)))

    first, second = Halves([]), Halves([])
    halves = [(x[:4], latents[:4]), (x[4:], latents[4:])]
    for spy, (part, own) in zip((first, second), halves):
        mono_loss(part, *active_of(own), 7, spy)
    found = [mono_loss(part, *active_of(own), 7, Halves(spy.own)) for spy, (part, own) in zip((second, first), halves)]
    torch.testing.assert_close(torch.cat([one.gradient for one in found]), whole.gradient)
    for one in found:
        torch.testing.assert_close(one.loss, whole.loss)


def test_nothing_to_pair_is_no_loss():
    loss, gradient = mono_loss(torch.eye(3), torch.tensor([0]), torch.tensor([1]), torch.tensor([2.0]), 4)
    assert loss == 0 and gradient.tolist() == [0.0]


@pytest.mark.parametrize(
    ("activation", "groups"), [("topk", False), ("batch_topk", True), ("relu", True), ("jumprelu", False)]
)
def test_a_step_adds_its_gradient_to_those_of_the_others(make_sae, x, activation, groups):
    def step(weight):
        sae = make_sae(activation, groups)
        config = SAETrainConfig(activation=activation, monosemanticity_weight=weight)
        kind = SparseStep if sae.activation_function.selects_by_rank else AutogradStep
        loss = kind(sae, config, DeadNeurons(sae.d_sae, 10**6), Processes())(x)
        return sae, loss

    plain, without = step(0.0)
    sae, loss = step(0.3)
    reference = make_sae(activation, groups)
    latents = reference.train_latents(x).latents
    expected = pairwise(latents, x)
    expected.backward()
    torch.testing.assert_close(loss.monosemanticity, expected.detach())
    torch.testing.assert_close(loss.total, without.total + 0.3 * expected.detach())
    for (name, with_it), own, extra in zip(sae.named_parameters(), plain.parameters(), reference.parameters()):
        if name == "threshold":  # jumprelu's is moved by silent latents near it, too; MonoLoss leaves those alone
            continue
        added = 0 if extra.grad is None else 0.3 * extra.grad
        torch.testing.assert_close(with_it.grad, own.grad + added, rtol=1e-8, atol=1e-11, msg=name)
    assert without.monosemanticity == 0


def test_training_with_it_makes_neurons_more_monosemantic(tmp_path):
    scores = {}
    for weight in (0.0, 1.0):
        train(tmp_path / str(weight), steps=150, monosemanticity_weight=weight, auxk_alpha=0.0)
        x = sparse_combinations()[1].rows
        latents = SAE.from_pretrained(tmp_path / str(weight)).encode(x).detach()
        scores[weight] = monosemanticity_score(latents, x).nanmean()
    assert scores[1.0] > scores[0.0] + 0.005
