"""Sparse probes against scikit-learn, a planted SAE against its permutation, and how many neurons share a concept."""

import numpy as np
import pytest
import torch
from planted_concepts import Planted
from scipy import sparse
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.preprocessing import StandardScaler

from cbsae_hub.metrics import (
    SparseProbing,
    Splitting,
    class_probing,
    sparse_probing,
    splitting,
)
from cbsae_hub.metrics.sparse_probing import drawn_of_each, explained_by, explained_by_classes
from cbsae_hub.metrics.splitting import main_neurons

L2 = 1e-2


@pytest.fixture(scope="module")
def noisy():
    """Sparse latents of which some know something, labels, and raw activations."""
    rng = np.random.default_rng(0)
    labels = rng.random((240, 3)) < 0.3
    latents = rng.random((240, 9)) * (rng.random((240, 9)) < 0.4)
    latents[:, :3] += labels * (rng.random((240, 3)) < 0.6)
    latents[:, 8] = 0
    return latents, labels, latents @ rng.normal(size=(9, 5)) + 0.3 * rng.normal(size=(240, 5))


def probe_of_sklearn(x, label):
    scaler = StandardScaler().fit(x)
    probe = LogisticRegression(C=1 / (L2 / 2 * len(x)), tol=1e-8, max_iter=2000).fit(scaler.transform(x), label)
    return lambda other: probe.decision_function(scaler.transform(other))


def by_anova(x, label):
    """The neurons that are not constant, by scikit-learn's F."""
    return np.argsort(-f_classif(x[:, :8], label)[0], kind="stable")


def test_the_order_of_neurons_is_that_of_anova(noisy):
    latents, labels, _ = noisy
    shares = explained_by(sparse.csr_matrix(latents), labels)
    for concept in range(3):
        f, _ = f_classif(latents[:, :8], labels[:, concept])
        e = shares[:8, concept]
        np.testing.assert_allclose(238 * e / (1 - e), f)
    assert (shares[8] == 0).all(), "a dead neuron explains nothing"
    targets = np.random.default_rng(1).integers(0, 4, 240)
    e = explained_by_classes(latents, targets)[:8]
    np.testing.assert_allclose(236 / 3 * e / (1 - e), f_classif(latents[:, :8], targets)[0])


def test_probes_and_their_scores_are_those_of_scikit_learn(noisy):
    latents, labels, raw = noisy
    scores = sparse_probing(sparse.csr_matrix(latents), labels, raw, ks=(1, 3), seeds=(5,), l2=L2)
    test = np.zeros(240, bool)
    test[np.random.default_rng(5).permutation(240)[:48]] = True
    for concept, label in enumerate(labels.T):
        best = by_anova(latents[~test], label[~test])
        assert scores.neurons[0, concept].tolist() == best[:3].tolist(), "ranked inside the training images"
        for place, x in ((0, latents[:, best[:1]]), (1, latents[:, best[:3]]), (None, raw)):
            expected = average_precision_score(label[test], probe_of_sklearn(x[~test], label[~test])(x[test]))
            own = scores.dense[0, concept] if place is None else scores.average_precision[0, concept, place]
            assert own == pytest.approx(expected, abs=1e-3)
            gap = scores.dense[0, concept] - scores.average_precision[0, concept]
            assert scores.gap[0, concept] == pytest.approx(gap)
        assert scores.chance[0, concept] == label[test].mean()


def test_probes_of_all_classes_are_those_of_scikit_learn(noisy):
    latents, _, raw = noisy
    targets = (latents[:, 0] > 0.5).astype(int) + 2 * (latents[:, 1] > 0.5)
    scores = class_probing(latents, targets, raw, ks=(2, 4), seeds=(0, 1), l2=L2)
    for number, seed in enumerate((0, 1)):
        test = drawn_of_each(targets, 0.2, seed)
        for label in range(4):
            assert test[targets == label].mean() == pytest.approx(0.2, abs=0.06)
        for k, own in zip((2, 4), scores.accuracy[number]):
            best = by_anova(latents[~test], targets[~test])[:k]
            scaler = StandardScaler().fit(latents[~test][:, best])
            probe = LogisticRegression(C=1 / (L2 * (~test).sum()), tol=1e-8, max_iter=2000)
            probe.fit(scaler.transform(latents[~test][:, best]), targets[~test])
            expected = probe.score(scaler.transform(latents[test][:, best]), targets[test])
            assert own == pytest.approx(expected)
        assert scores.chance[number] == max(np.bincount(targets[test])) / test.sum()
    np.testing.assert_allclose(scores.area, scores.accuracy.mean(1))
    with pytest.raises(ValueError, match="class 1 has a single image"):
        class_probing(latents[:3], np.array([0, 0, 1]), ks=(1,))


def test_true_neurons_score_one_and_shuffled_images_chance():
    world = Planted(images=400)
    latents, labels = world.latents(world.x).numpy(), world.labels.numpy()
    scores = sparse_probing(latents, labels, world.x.numpy(), ks=(1,), seeds=(0, 1))
    assert (scores.neurons[..., 0] == world.order.numpy()).all()
    assert scores.average_precision.min() == 1 and scores.dense.min() > 0.99
    shuffled = latents[np.random.default_rng(0).permutation(400)]
    nonsense = sparse_probing(shuffled, labels, ks=(1,), seeds=(0, 1, 2))
    assert np.isnan(nonsense.dense).all()
    assert nonsense.average_precision.mean() == pytest.approx(nonsense.chance.mean(), abs=0.06)
    with pytest.raises(ValueError, match="numbers from 1 to the 20 neurons"):
        sparse_probing(latents, labels, ks=(1, 21))
    with pytest.raises(ValueError, match="latents of 400 images and labels of 399"):
        sparse_probing(latents, labels[1:], ks=(1,))


def test_a_stream_of_images_in_any_order_is_the_whole(noisy):
    latents, labels, raw = noisy
    options = {"ks": (2,), "seeds": (0,), "l2": L2}
    shards = [SparseProbing(9, **options) for _ in "ab"]
    splits = [Splitting(9) for _ in "ab"]
    for number, ids in enumerate(torch.randperm(240, generator=torch.Generator().manual_seed(0)).split(50)):
        batch = torch.from_numpy(latents)[ids].float(), torch.from_numpy(labels)[ids], ids
        shards[number % 2].update(*batch, torch.from_numpy(raw)[ids])
        splits[number % 2].update(*batch)
    shards[1].merge_state(shards[0])
    splits[1].merge_state(splits[0])
    whole = sparse_probing(latents.astype(np.float32), labels, raw.astype(np.float32), **options)
    streamed = shards[1].compute()
    np.testing.assert_allclose(streamed.average_precision, whole.average_precision)
    np.testing.assert_allclose(streamed.dense, whole.dense)
    assert splits[1].compute().members == splitting(latents.astype(np.float32), labels).members


def test_a_concept_that_neurons_share_is_told_from_one_that_has_its_own():
    rng = np.random.default_rng(0)
    labels = rng.random((600, 3)) < 0.3
    face = rng.integers(0, 3, 600)
    latents = rng.random((600, 8)) * (rng.random((600, 8)) < 0.1)
    latents[:, 0] = labels[:, 0]
    for one in range(3):
        latents[:, 1 + one] = labels[:, 1] & (face == one)
    splits = splitting(latents, labels, seed=1)
    assert splits.members[0] == [0] and sorted(splits.members[1]) == [1, 2, 3] and splits.counts[:2].tolist() == [1, 3]
    assert splits.f1[:2].tolist() == [1, 1] and splits.single[0] == 1 and splits.single[1] < 0.6
    order = np.random.default_rng(1).permutation(600)
    first, second = order[:300], order[300:]
    one = splits.members[1][:1]
    decide = probe_of_sklearn(latents[first][:, one], labels[first, 1])
    expected = f1_score(labels[second, 1], decide(latents[second][:, one]) > 0)
    assert splits.single[1] == pytest.approx(expected)
    share = labels[second, 1].mean()
    assert splits.chance[1] == pytest.approx(2 * share * share / (2 * share)), "as many at random"
    assert main_neurons(latents, np.ones((600, 1), bool)) == [[]]
