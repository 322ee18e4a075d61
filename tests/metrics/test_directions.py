"""True directions against means by hand and numpy's least squares; the match against all assignments."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted_concepts import Planted
from sklearn.metrics import f1_score

from cbsae_hub.metrics import TrueDirections, direction_scores, true_directions


@pytest.fixture(scope="module")
def world():
    return Planted()


def test_a_direction_is_the_mean_difference_of_its_pairs(world):
    noisy = world.after + 0.3 * torch.randn(world.after.shape, generator=torch.Generator().manual_seed(1))
    found = true_directions(world.before, noisy, world.changes)
    for c in range(world.changes.shape[1]):
        changed = world.changes[:, c] != 0
        signs = world.changes[changed, c, None]
        expected = (signs * (noisy - world.before)[changed]).double().mean(0)
        torch.testing.assert_close(found[c], expected, rtol=1e-5, atol=1e-6)
    assert F.cosine_similarity(true_directions(world.before, world.after, world.changes), world.directions).min() > 0.99


def test_concepts_that_replace_each_other_are_told_apart_by_least_squares(world):
    generator = torch.Generator().manual_seed(2)
    changes = torch.zeros(60, 12, dtype=torch.long)
    for row in changes:
        goes, comes = torch.randperm(12, generator=generator)[:2]
        row[goes], row[comes] = -1, 1
    changes[:, 11] = 0
    before = world.x[:60]
    after = before + changes.float() @ world.directions + 0.1 * torch.randn(60, 24, generator=generator)
    found = true_directions(before, after, changes)
    expected = np.linalg.lstsq(changes[:, :11].numpy().astype(float), (after - before).double().numpy(), rcond=1e-9)[0]
    np.testing.assert_allclose(found[:11], expected, atol=1e-6)
    assert found[11].isnan().all()


def test_the_match_is_the_best_of_all_assignments():
    generator = torch.Generator().manual_seed(3)
    rows, directions = torch.randn(4, 3, generator=generator), torch.randn(3, 3, generator=generator)
    latents = torch.randn(50, 4, generator=generator).relu()
    labels = torch.rand(50, 3, generator=generator) < 0.4
    cosines = F.cosine_similarity(directions[:, None], rows[None], dim=-1)
    best = max(permutations(range(4), 3), key=lambda one: sum(cosines[c, n] for c, n in enumerate(one)))
    result = direction_scores(rows, directions, latents.to_sparse(), labels)
    assert result.neurons.tolist() == list(best)
    np.testing.assert_allclose(result.cosine, [cosines[c, n] for c, n in enumerate(best)], rtol=1e-6)
    assert result.mcc == pytest.approx(result.cosine.mean())
    expected = [f1_score(labels[:, c], latents[:, n] > 0) for c, n in enumerate(best)]
    np.testing.assert_allclose(result.f1, expected)
    orders = [torch.randperm(50, generator=generator) for _ in range(300)]
    shuffled = [direction_scores(rows, directions, latents, labels[order]).f1 for order in orders]
    np.testing.assert_allclose(result.chance, np.mean(shuffled, 0), atol=0.03)


def test_a_planted_sae_scores_one_and_its_permutations_chance(world):
    directions = true_directions(world.before, world.after, world.changes)
    latents = world.latents(world.x)
    planted = direction_scores(world.sae.W_dec, directions, latents, world.labels)
    assert planted.mcc == pytest.approx(1, abs=1e-5) and planted.neurons.tolist() == world.order.tolist()
    np.testing.assert_allclose(planted.f1, 1)
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(4))
    other = torch.arange(20).roll(1)
    for rows, active in ((world.sae.W_dec, latents[order]), (world.sae.W_dec[other], latents)):  # images; the decoder
        permuted = direction_scores(rows, directions, active, world.labels)
        assert permuted.f1.mean() == pytest.approx(permuted.chance.mean(), abs=0.08) and permuted.f1.mean() < 0.3
    nonsense = torch.randn(20, 24, generator=torch.Generator().manual_seed(5))
    assert direction_scores(nonsense, directions, latents, world.labels).mcc < 0.5


def test_fewer_neurons_than_concepts_count_as_zero_and_bad_input_is_refused(world):
    directions = true_directions(world.before, world.after, world.changes)
    result = direction_scores(world.sae.W_dec[:5], directions, world.latents(world.x)[:, :5], world.labels)
    assert (result.neurons < 0).sum() == 7 and (result.cosine[result.neurons < 0] == 0).all()
    assert (result.f1[result.neurons < 0] == 0).all()
    with pytest.raises(ValueError, match="must have one width"):
        direction_scores(world.sae.W_dec[:, :3], directions, world.latents(world.x), world.labels)
    with pytest.raises(ValueError, match=r"activations after must be \[images, 24\]"):
        TrueDirections(12, 24).update(world.before, world.after[:, :3], world.changes)
