"""Against scikit-learn, and on features that are computed in blocks."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cbsae_hub.metrics import linear_probe
from cbsae_hub.metrics.linear_probe import Features, fit_probe, search_probe


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 150)
    x = np.eye(4)[targets] @ rng.normal(size=(4, 7)) + rng.normal(size=(150, 7))
    x[:, 0] = 100 * x[:, 0] + 1000  # far from zero, and large
    x[:, 6] = 3.0  # constant
    return torch.from_numpy(x), torch.from_numpy(targets)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_weights_are_those_of_scikit_learn(data, l2, monkeypatch):
    monkeypatch.setattr(linear_probe, "BLOCK", 64)  # three blocks
    x, targets = data
    probe = fit_probe(Features(x[:, None]), targets, 4, l2, max_steps=500, tolerance=1e-8)
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=5000).fit(scaler.transform(x), targets)
    np.testing.assert_allclose(probe.standard[:, :-1], peer.coef_, atol=1e-5)
    logits = probe.logits(Features(x[:, None])).softmax(1)
    np.testing.assert_allclose(logits, peer.predict_proba(scaler.transform(x)), atol=1e-6)


def test_features_are_means_over_tokens_and_made_once():
    rows, calls = torch.randn(10, 3, 4), []

    def squares(x):
        calls.append(len(x))
        return x.square()

    features = Features(rows, squares)
    for _ in range(2):
        torch.testing.assert_close(torch.cat(list(features.blocks())), rows.square().mean(1))
    assert calls == [10]
    picked = torch.tensor([True, False] * 5)
    torch.testing.assert_close(torch.cat(list(features.of(picked).blocks())), rows[picked].square().mean(1))


def test_the_penalty_is_the_one_that_is_best_on_other_images(data):
    x, targets = data
    x = torch.cat([x, torch.randn(150, 60, generator=torch.Generator().manual_seed(0)).double()], 1)  # noise
    chosen_on = torch.arange(150) % 3 == 0
    probe = search_probe(Features(x[:, None]), targets, 4, chosen_on, (1e-5, 1e-2, 1e4))
    right = {}
    for l2 in (1e-5, 1e-2, 1e4):
        one = fit_probe(Features(x[~chosen_on][:, None]), targets[~chosen_on], 4, l2)
        hits = one.logits(Features(x[chosen_on][:, None])).argmax(1) == targets[chosen_on]
        right[l2] = float(hits.double().mean())
    assert right[probe.l2] == max(right.values())
    with pytest.raises(ValueError, match="a target for each image, got 2 for 150"):
        fit_probe(Features(x[:, None]), targets[:2], 4, 1.0)
