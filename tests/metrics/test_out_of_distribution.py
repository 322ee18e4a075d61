"""Against scikit-learn and the formulas written out."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cbsae_hub.metrics.out_of_distribution import RIDGE, NearestClass, auroc, image_errors, unsureness
from cbsae_hub.models import SAE


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40).astype(float), rng.integers(2, 9, 25).astype(float)  # with ties
    expected = roc_auc_score([0] * 40 + [1] * 25, np.concatenate([inside, outside]))
    assert auroc(torch.from_numpy(inside), torch.from_numpy(outside)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("activation", ["relu", "topk", "gated"])
def test_figures_of_images_are_means_over_their_tokens(activation):
    sae = SAE(6, 12, activation, 3, seed=0)
    rows = torch.randn(7, 4, 6, generator=torch.Generator().manual_seed(0))
    found = image_errors(sae, rows, block=3)
    with torch.no_grad():
        for image in range(7):
            latents, reconstruction = sae(rows[image])
            assert float(found.mse[image]) == pytest.approx(
                float((rows[image] - reconstruction).pow(2).mean()), rel=1e-5
            )
            assert float(found.l1[image]) == pytest.approx(float(latents.abs().sum(1).mean()), rel=1e-5)
            assert float(found.l0[image]) == pytest.approx(float((latents != 0).sum() / 4))


def test_the_distance_is_mahalanobis_to_the_nearest_class():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, 90)
    rows = rng.normal(size=(90, 4)) @ rng.normal(size=(4, 4)) + 3 * rng.normal(size=(3, 4))[targets]
    others = rng.normal(size=(5, 4))
    means = np.stack([rows[targets == one].mean(0) for one in range(3)])
    covariance = np.mean([np.outer(r - means[t], r - means[t]) for r, t in zip(rows, targets)], 0)
    inverse = np.linalg.inv(covariance + RIDGE * np.diag(covariance).mean() * np.eye(4))
    expected = [min((o - m) @ inverse @ (o - m) for m in means) for o in others]
    found = NearestClass(torch.from_numpy(rows), torch.from_numpy(targets))(torch.from_numpy(others))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unsureness():
    torch.testing.assert_close(unsureness(torch.tensor([[0.0, 0.0], [100.0, 0.0]])), torch.tensor([0.5, 0.0]))
