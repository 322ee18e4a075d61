"""The input scale, the first b_dec, dead neurons and held-out figures, against closed forms and brute force."""

import pytest
import torch

from cbsae_hub import SAE
from cbsae_hub.trainers.sae.step import DeadNeurons
from cbsae_hub.trainers.sae.trainer import evaluate_sae, geometric_median, input_scale


def test_input_scale_gives_unit_mean_square():
    batches = [torch.randn(7, 5) * 3, torch.randn(11, 5) + 2]
    x = torch.cat(batches) / input_scale(batches)
    assert x.square().sum(1).mean().item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="scale"):
        input_scale([torch.zeros(3, 5)])


def test_geometric_median_minimises_the_mean_distance():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    points[:60] += 40  # outliers, which move the mean far away
    median = geometric_median(points)

    def mean_distance(centre):
        return (points - centre).norm(dim=1).mean()

    best = mean_distance(median)
    for direction in torch.eye(3, dtype=torch.float64):
        for size in (0.05, -0.05):
            assert best < mean_distance(median + size * direction)
    assert (median - points[60:].mean(0)).norm() < 2
    assert (points.mean(0) - points[60:].mean(0)).norm() > 10


def test_geometric_median_of_an_odd_number_of_points_on_a_line_is_the_middle_one():
    points = torch.tensor([0.0, 1.0, 2.0, 50.0, 1000.0])[:, None] * torch.ones(1, 4)
    torch.testing.assert_close(geometric_median(points), points[2], atol=1e-2, rtol=0)


def test_dead_neurons_by_brute_force():
    neurons = DeadNeurons(6, after_tokens=30)
    generator = torch.Generator().manual_seed(0)
    last_fired = torch.zeros(6)
    for step in range(1, 20):
        fired = torch.randint(0, 6, (2,), generator=generator)
        dead = neurons.update(fired, tokens=10)
        last_fired[fired] = step
        expected = [i for i in range(6) if (step - last_fired[i]) * 10 >= 30]
        assert dead.tolist() == expected
        assert neurons.share == len(expected) / 6


def test_heldout_figures_equal_their_definitions():
    torch.manual_seed(0)
    sae = SAE(6, 24, "relu")
    x = torch.randn(50, 6) + 100  # far off-centre: variance must be about the mean
    with torch.no_grad():
        sae.b_dec.fill_(100)
        sae.b_enc.uniform_(-1, 0.2)
        sae.b_enc[3] = -1000
        latents, reconstruction = sae(x)
    result = evaluate_sae(sae, x.split([13, 30, 7]))
    x, reconstruction = x.double(), reconstruction.double()
    explained = 1 - (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()
    assert result.explained_variance == pytest.approx(explained.item(), rel=1e-4)
    assert result.l0 == pytest.approx((latents > 0).sum(1).double().mean().item(), rel=1e-12)
    assert result.silent_share == pytest.approx((latents == 0).all(0).double().mean().item(), rel=1e-12)
    assert result.tokens == 50


def test_heldout_figures_need_tokens_that_vary():
    with pytest.raises(ValueError, match="no held-out tokens"):
        evaluate_sae(SAE(6, 24, "relu"), [])
    with pytest.raises(ValueError, match="do not vary"):
        evaluate_sae(SAE(6, 24, "relu"), [torch.ones(4, 6)])
