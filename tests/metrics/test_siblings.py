"""Neurons of concepts and of their siblings, pair by pair against scikit-learn, and in planted cases."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from cbsae_hub.metrics import siblings
from cbsae_hub.metrics.sparse_probing import drawn_of_each

KINDS = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1]], dtype=bool)


def test_pairs_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 5, 300)  # nothing shows concept 5
    latents = rng.random((300, 14)) * (rng.random((300, 14)) < 0.5)
    for concept in range(5):
        latents[targets == concept, concept] += rng.random((targets == concept).sum())
    scores = siblings(latents, targets, KINDS, top=4, seeds=(0, 1), l2=1e-2)
    expected = [(0, 0), (0, 1), (0, 2), (2, 1), (2, 2), (2, 3)]
    assert scores.pairs.tolist() == [list(pair) for pair in expected], "a kind of two has too few siblings"
    for place, (kind, concept) in enumerate(expected):
        inside = np.isin(targets, np.flatnonzero(KINDS[kind]))
        x, own = latents[inside], targets[inside] == concept
        first, second = (set(np.argsort(-x[part].mean(0))[:4]) for part in (own, ~own))
        assert scores.overlap[place] == pytest.approx(len(first & second) / len(first | second))
        for number, seed in enumerate((0, 1)):
            read = drawn_of_each(own, 0.2, seed)
            best = np.argsort(-f_classif(x[~read], own[~read])[0])
            for count, found in ((1, scores.narrow), (4, scores.wide)):
                columns = best[:count]
                scaler = StandardScaler().fit(x[~read][:, columns])
                probe = LogisticRegression(C=2 / (1e-2 * (~read).sum()), tol=1e-8)
                probe.fit(scaler.transform(x[~read][:, columns]), own[~read])
                said = probe.predict(scaler.transform(x[read][:, columns]))
                assert found[place, number] == pytest.approx(f1_score(own[read], said))
    np.testing.assert_allclose(scores.gap, scores.wide - scores.narrow)


def test_own_neurons_are_told_from_shared_ones():
    targets = np.arange(90) % 3
    own = np.eye(3)[targets]
    apart, shared = siblings(own, targets, KINDS[:1, :3]), siblings(np.ones((90, 3)), targets, KINDS[:1, :3])
    assert (apart.overlap == 0).all() and (apart.narrow == 1).all() and (apart.gap == 0).all()
    assert (shared.overlap == 1).all() and (shared.wide == 0).all()
    assert siblings(own, targets, KINDS[1:2, :3]).gap.shape == (0, 3)
    with pytest.raises(ValueError, match="targets of 89"):
        siblings(own, targets[1:], KINDS)
