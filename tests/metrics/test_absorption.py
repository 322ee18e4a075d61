"""Absorption image by image, and in a world where one concept's neuron was made to write its kind."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics import Absorption, absorption
from cbsae_hub.metrics.absorption import kinds_shown

KINDS = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=bool)  # three dogs, two cats


def world(absorbed, images=400):
    """Neurons 0 and 1 write the kinds, 2 to 6 their concepts; corgi's own writes dog, too, instead of dog's."""
    rng = np.random.default_rng(0)
    labels = np.eye(5, dtype=bool)[rng.integers(0, 5, images)]
    labels[rng.random(images) < 0.3] = False
    rows = torch.eye(7, 9)
    latents = torch.cat([torch.from_numpy(kinds_shown(labels, KINDS)), torch.from_numpy(labels)], 1).float()
    if absorbed:
        latents[labels[:, 0], 0] = 0
        rows[2, 0] = 1.0
    noise = torch.randn(images, 9, generator=torch.Generator().manual_seed(0))
    return latents @ rows + 2 + 0.05 * noise, latents, rows, labels


def test_what_was_absorbed_is_found_and_nothing_else():
    for absorbed in (False, True):
        x, latents, rows, labels = world(absorbed)
        scores = absorption(x, latents, rows, labels, KINDS, torch.full((9,), 2.0))
        assert scores.main[1] == [1] and scores.main[0][0] == 0
        expected = np.where(KINDS, 0.0, np.nan)
        if absorbed:
            main = set(scores.main[0])
            expected[0, 0] = 0 if 2 in main else 1
            assert 2 not in main or len(main) > 1
        np.testing.assert_allclose(scores.by_concept, expected, atol=1e-9)
        assert scores.fraction[1] == 0


def test_scores_are_those_of_each_image():
    generator = torch.Generator().manual_seed(1)
    x, rows, directions = (torch.randn(*shape, generator=generator) for shape in ((60, 6), (15, 6), (2, 6)))
    latents = torch.rand(60, 15, generator=generator) * (torch.rand(60, 15, generator=generator) < 0.4)
    labels = torch.rand(60, 5, generator=generator) < 0.3
    main, origin = [[3, 5], [0]], torch.randn(6, generator=generator)
    sums, counts, shares = np.zeros((2, 5)), np.zeros((2, 5)), [[], []]
    for image in range(60):
        for kind in range(2):
            own_concepts = labels[image].numpy() & KINDS[kind]
            if not own_concepts.any():
                continue
            p = directions[kind].double() / directions[kind].double().norm()
            added = {i: float(latents[image, i] * (rows[i].double() @ p)) for i in range(15)}
            own = sum(added[i] for i in main[kind])
            others = sorted(
                (max(0, added[i]) for i in range(15)
                 if i not in main[kind] and rows[i].double() @ p / rows[i].double().norm() >= 0.1),
                reverse=True,
            )  # fmt: skip
            others, whole = sum(others[:3]), float((x[image] - origin).double() @ p)
            share = others / (others + max(0, own)) if own < whole and others >= 0.4 * whole and whole > 0 else 0
            shares[kind].append(share)
            sums[kind] += share * own_concepts
            counts[kind] += own_concepts
    assert 0 < np.mean(shares[0]) < 1
    metrics = [Absorption(rows, directions, main, KINDS, origin) for _ in "ab"]
    for number, part in enumerate(torch.arange(60).split(17)):
        metrics[number % 2].update(x[part], latents[part].to_sparse(), labels[part])
    metrics[0].merge_state(metrics[1])
    scores = metrics[0].compute()
    np.testing.assert_allclose(scores.fraction, [np.mean(part) for part in shares])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(scores.by_concept, sums / counts)


def test_sizes_that_do_not_fit_are_named():
    rows, directions = torch.randn(4, 6), torch.randn(2, 6)
    with pytest.raises(ValueError, match="must have one width"):
        Absorption(rows[:, :5], directions, [[0], [1]], KINDS)
    with pytest.raises(ValueError, match="must have one width"):
        Absorption(rows, directions, [[0]], KINDS)
    silent = Absorption(rows, directions, [[], [1]], KINDS)
    silent.update(torch.randn(3, 6), torch.rand(3, 4), torch.tensor([[True] + [False] * 4] * 3))
    assert np.isnan(silent.compute().fraction).all(), "no neuron of its own, and a kind that nothing shows"
