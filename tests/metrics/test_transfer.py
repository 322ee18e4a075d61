"""What is kept of classes in reconstructions, and of an SAE on other images."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cbsae_hub.metrics import ActiveNeurons, preservation, transfer
from cbsae_hub.metrics.sparse_probing import drawn_of_each


def test_preservation_is_that_of_scikit_learns_probe():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 240)
    x = np.eye(3)[targets] @ rng.normal(size=(3, 6)) + 0.8 * rng.normal(size=(240, 6))
    rough = x + 1.2 * rng.normal(size=x.shape)
    kept = preservation(x, rough, targets, seeds=(0, 3), l2=1e-2)
    for number, seed in enumerate((0, 3)):
        read = drawn_of_each(targets, 0.2, seed)
        scaler = StandardScaler().fit(x[~read])
        probe = LogisticRegression(C=1 / (1e-2 * (~read).sum()), tol=1e-8, max_iter=2000)
        probe.fit(scaler.transform(x[~read]), targets[~read])
        expected = [probe.score(scaler.transform(one[read]), targets[read]) for one in (x, rough)]
        assert [kept.original[number], kept.reconstructed[number]] == pytest.approx(expected)
        assert kept.ratio[number] == pytest.approx(expected[1] / expected[0])
    assert (preservation(x, x, targets).ratio == 1).all()
    with pytest.raises(ValueError, match="of the same images"):
        preservation(x, rough[1:], targets)


def test_transfer_compares_sets_of_neurons():
    rng = np.random.default_rng(0)
    latents = [torch.from_numpy(rng.random((40, 12)) * (rng.random((40, 12)) < 0.03)) for _ in "ab"]
    sets = []
    for one in latents:
        metrics = [ActiveNeurons(12) for _ in "ab"]
        for number, part in enumerate(one.split(7)):
            metrics[number % 2].update(part.to_sparse() if number % 3 else part)
        metrics[0].merge_state(metrics[1])
        sets.append(metrics[0].compute())
        assert sets[-1].tolist() == (one.numpy() > 0).any(0).tolist()
    usual, other = ({i for i in range(12) if one[i]} for one in sets)
    assert 0 < len(usual & other) < len(usual | other)
    found = transfer(*sets, 0.6, 0.5)
    parts = [0.6, len(usual & other) / len(usual), len(usual & other) / len(usual | other), 0.5]
    assert [found.explained, found.alive, found.overlap, found.probing] == pytest.approx(parts)
    assert found.score == pytest.approx(np.mean(parts)) and transfer(*sets, -3.0, 0.5).explained == 0
    same = transfer(sets[0], sets[0], 1.0, 1.0)
    assert same.score == 1
    with pytest.raises(ValueError, match="got 12 and 3"):
        transfer(sets[0], sets[1][:3], 0.5, 0.5)
