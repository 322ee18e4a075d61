import numpy as np
import pytest
from scipy.stats import rankdata

from cbsae_hub.metrics.coverage import best_by_concept, coverage
from cbsae_hub.metrics.normalise import to_unit_interval


def test_coverage_counts_names_by_what_they_are_worth():
    rng = np.random.default_rng(0)
    concepts, scores = rng.integers(-1, 40, 60), rng.normal(size=60)
    best = best_by_concept(concepts, scores, 50)
    thresholds = np.array([-np.inf, -1.0, 0.0, scores[7], 10.0])
    expected = [len({c for c, s in zip(concepts, scores) if c >= 0 and s >= t}) / 50 for t in thresholds]
    assert coverage(best, thresholds).tolist() == expected
    assert coverage(best) == expected[0]
    assert coverage(best_by_concept(np.array([-1]), np.array([1.0]), 3)) == 0
    with pytest.raises(ValueError, match="no concepts"):
        coverage(np.zeros(0))


def test_unit_interval():
    scores = np.array([3.0, np.nan, -1.0, 0.0, 0.0])
    np.testing.assert_allclose(to_unit_interval(scores), [1, np.nan, 0, 0.25, 0.25])
    ranks = (rankdata(scores[[0, 2, 3, 4]]) - 1) / 3
    np.testing.assert_allclose(to_unit_interval(scores, "rank")[[0, 2, 3, 4]], ranks)
    many = np.r_[np.random.default_rng(0).normal(size=2000), 1e6]
    robust = to_unit_interval(many, "robust")
    low, high = np.percentile(many, [0.5, 99.5])
    np.testing.assert_allclose(robust, np.clip((many - low) / (high - low), 0, 1))
    assert to_unit_interval(np.full(3, 7.0)).tolist() == [0, 0, 0]
    assert np.isnan(to_unit_interval(np.full(3, np.nan))).all()
    with pytest.raises(ValueError, match="minmax, robust, rank"):
        to_unit_interval(scores, "softmax")
    with pytest.raises(ValueError, match="infinite"):
        to_unit_interval(np.array([np.inf]))
