"""What probes are read with, and the tables."""

import numpy as np
import pytest
import torch
from scipy import stats

from cbsae_hub.metrics.linear_probe import LinearProbe
from cbsae_hub.models import SAE
from cbsae_hub.studies.probing import (
    ERROR,
    LATENTS,
    LENGTH,
    RANDOM,
    ImageSet,
    accuracies,
    detectors,
    errors,
    fitted,
    over_seeds,
    spread,
    table_of,
    transforms,
)


def test_a_mask_leaves_the_classes_of_the_set():
    probe = LinearProbe(torch.eye(3), torch.zeros(3), torch.zeros(3, 4), 1.0)
    rows = torch.tensor([[[0.1, 0.9, 0.5]], [[0.0, 1.0, 2.0]], [[5.0, 0.0, 1.0]], [[9.0, 9.0, 0.0]]])
    targets = torch.tensor([2, 2, 0, -1])  # the last one does not count; nothing is of class 1
    sets = {"all": ImageSet(rows, targets), "masked": ImageSet(rows, targets, mask=True)}
    sets["none"] = ImageSet(rows, torch.full((4,), -1))
    found = accuracies(probe, lambda x: x, sets)
    assert (found["all"], found["masked"]) == (pytest.approx(2 / 3), 1.0) and np.isnan(found["none"])


@pytest.fixture(scope="module")
def world():
    """Two classes along the first dimension; far images lie along the last one, which the SAE does not know."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(200) % 2
    rows = 0.1 * torch.randn(200, 2, 5, generator=generator)
    rows[..., 0] += 2 * (2 * targets - 1)[:, None]
    far = rows.clone()
    far[..., 4] += 3
    sae = SAE(5, 8, "relu", seed=0)
    with torch.no_grad():
        sae.W_enc[4], sae.W_dec[:, 4] = 0.0, 0.0
    return sae, ImageSet(rows, targets), {"test": ImageSet(rows, targets), "far": ImageSet(far, targets, "far")}


def test_features_have_the_width_of_the_sae_and_are_classified(world):
    sae, train, sets = world
    for name, transform in transforms(sae, 0).items():
        assert transform(train.rows).shape[-1] == (5 if name == "raw embedding" else 8)
        probe = fitted(train, transform, 2, 0)
        assert accuracies(probe, transform, sets)["test"] == 1
    assert not torch.equal(transforms(sae, 0)[RANDOM](train.rows), transforms(sae, 1)[RANDOM](train.rows))
    torch.testing.assert_close(transforms(sae, 0)[LATENTS](train.rows), sae.encode(train.rows))


def test_strange_images_are_told_by_what_is_lost(world):
    sae, train, sets = world
    table = errors(sae, sets, "test")
    with torch.no_grad():
        x = sets["far"].rows
        assert table["far"]["mse"] == pytest.approx(float((x - sae(x).reconstruction).square().mean()), rel=1e-5)
    assert "auroc" not in table["test"] and table["far"]["auroc"] == 1
    probe = fitted(train, lambda x: x, 2, 0)
    found = detectors(sae, probe, train, sets, "test")
    assert found[ERROR]["far"] == found[LENGTH]["far"] == 1 and set(found[ERROR]) == {"far"} and len(found) == 4


def test_intervals_are_students():
    values = [0.5, 0.6, 0.8]
    mean, half = spread(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert np.isnan(spread([0.3])[1])
    rows = [{"features": f, "set": s, "accuracy": v} for f in "ab" for s in ("x", "y") for v in values]
    rows.append({"features": "c", "set": "x", "accuracy": 0.25})
    table = table_of(over_seeds(rows, ("features", "set"), "accuracy"), ("features",), "set")
    assert f"| a | 63.3 ± {100 * half:.1f} | 63.3 ± {100 * half:.1f} |" in table and "| c | 25.0 |  |" in table
