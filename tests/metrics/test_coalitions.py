"""Coalitions against every subset of neurons, and a planted SAE against its permutation."""

from itertools import combinations

import numpy as np
import pytest
import torch
from planted_concepts import Planted
from scipy import sparse
from sklearn.metrics import fbeta_score

from cbsae_hub.metrics import Coalitions, coalition_activity, coalitions
from cbsae_hub.metrics.coalitions import _choose
from cbsae_hub.metrics.f_score import f_score


def score_of(on, label):
    """F0.5 from precision and recall, its definition."""
    hits = (on & label).sum()
    if not hits:
        return 0.0
    precision, recall = hits / on.sum(), hits / label.sum()
    return 1.25 * precision * recall / (0.25 * precision + recall)


def test_the_score_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    on, label = rng.random((2, 40)) < 0.4
    expected = fbeta_score(label, on, beta=0.5)
    assert score_of(on, label) == pytest.approx(expected)
    assert f_score((on & label).sum(), on.sum(), label.sum(), 0.5) == pytest.approx(expected)


def greedy_by_hand(active, label, most):
    """The same choice, one neuron at a time."""
    members, on, best = [], np.zeros(len(label), bool), 0.0
    while len(members) < most:
        scores = [score_of(on | column, label) for column in active.T]
        if max(scores) <= best + 1e-12:
            break
        best = max(scores)
        members.append(int(np.flatnonzero(np.array(scores) >= best - 1e-12)[0]))
        on |= active[:, members[-1]]
    return members


def test_the_choice_is_greedy_and_near_the_best_of_all_subsets():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(5):
        labels = rng.random((40, 3)) < 0.3
        active = rng.random((40, 7)) < 0.15
        active[:, :3] |= labels & (rng.random((40, 3)) < 0.5)
        for label, members in zip(labels.T, _choose(sparse.csc_matrix(active, dtype=float), labels, 3)):
            assert members == greedy_by_hand(active, label, 3)
            subsets = [list(one) for n in (1, 2, 3) for one in combinations(range(7), n)]
            best = max(score_of(active[:, one].any(1), label) for one in subsets)
            shares.append(score_of(active[:, members].any(1), label) / best)
    assert max(shares) == 1 and min(shares) > 0.8


def test_scores_are_those_of_the_other_half():
    rng = np.random.default_rng(1)
    labels, latents = rng.random((60, 4)) < 0.3, rng.random((60, 9)) * (rng.random((60, 9)) < 0.3)
    result = coalitions(latents, labels, most=2, seed=5)
    order = np.random.default_rng(5).permutation(60)
    for half, scores in ((order[:30], result.chosen), (order[30:], result.score)):
        on = np.stack([(latents[half][:, members] > 0).any(1) for members in result.members], 1)
        np.testing.assert_allclose(scores, [score_of(on[:, c], labels[half, c]) for c in range(4)])
    shuffled = [
        [score_of(on[rng.permutation(30), c], labels[order[30:], c]) for c in range(4)] for _ in range(400)
    ]  # fmt: skip
    np.testing.assert_allclose(result.chance, np.mean(shuffled, 0), atol=0.03)


@pytest.fixture(scope="module")
def world():
    return Planted()


def test_planted_neurons_are_perfect_and_their_permutation_is_chance(world):
    latents, labels = world.latents(world.x), world.labels.numpy()
    result = coalitions(latents.numpy(), labels)
    np.testing.assert_allclose(result.score, 1)
    assert [members[0] for members in result.members] == world.order.tolist()
    other = np.random.default_rng(0).permutation(len(labels))
    permuted = coalitions(latents.numpy()[other], labels)
    assert abs(permuted.score.mean() - permuted.chance.mean()) < 0.05 and permuted.score.mean() < 0.3


def test_a_stream_has_the_coalitions_of_the_whole(world):
    latents, ids = world.latents(world.x), torch.randperm(600)
    metric, whole = (
        Coalitions(latents.shape[1]),
        coalitions(latents.numpy()[ids.argsort()], world.labels[ids.argsort()]),
    )
    for part in torch.arange(600).split(171):
        metric.update(latents[part].to_sparse(), world.labels[part], ids[part])
    assert metric.compute().members == whole.members
    np.testing.assert_array_equal(metric.compute().score, whole.score)


def test_activity_of_coalitions_in_every_form():
    latents = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -2.0], [3.0, 0.0, 0.0]])
    expected = [[True, False, False], [False, False, False], [True, True, False]]
    for form in (latents, latents.to_sparse(), latents.numpy(), sparse.csr_matrix(latents.numpy())):
        assert coalition_activity(form, [[0, 1], [0], []]).tolist() == expected


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="two halves need two images"):
        coalitions(np.ones((1, 2)), np.ones((1, 1), bool))
    labels = np.zeros((10, 2), bool)
    labels[:, 0] = True
    result = coalitions(np.ones((10, 3)), labels)
    assert result.members == [[0], []] and np.isnan(result.score[1]) and result.score[0] == 1
