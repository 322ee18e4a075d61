"""Outlier severity against numpy."""

import numpy as np
import pytest
import torch

from cbsae_hub.metrics.outliers import OutlierSeverity, outlier_severity


def test_equals_mean_over_deviation_in_whole_and_in_batches():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + torch.tensor([9.0, 0, 0, 1, 0, 0])
    mean, deviation = x.double().numpy().mean(0), x.double().numpy().std(0)
    expected = np.linalg.norm(mean) / np.linalg.norm(deviation)
    assert outlier_severity(x) == pytest.approx(expected, rel=1e-9)
    metric = OutlierSeverity(6)
    for part in x.split([20, 1, 29]):
        metric.update(part)
    assert metric.compute() == pytest.approx(expected, rel=1e-9)
    assert outlier_severity(x - x.mean(0)) < 1e-6
    assert np.isnan(outlier_severity(torch.ones(3, 6)))
