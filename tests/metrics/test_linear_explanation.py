"""Forward selection against a regression with every concept, one after another."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression

from cbsae_hub.metrics import linear_explanation
from cbsae_hub.metrics.linear_explanation import explain_linearly, standardised


def by_brute_force(z, concepts, count):
    """Concepts of one neuron: the best by R2 among those whose product with the residual is positive."""
    chosen = []
    residual = z - z.mean()
    for _ in range(count):
        scores = {}
        for j in set(range(concepts.shape[1])) - set(chosen):
            fit = LinearRegression().fit(concepts[:, [*chosen, j]], z)
            if chosen:  # what of the concept the chosen ones do not explain
                others = LinearRegression().fit(concepts[:, chosen], concepts[:, j])
                rest = concepts[:, j] - others.predict(concepts[:, chosen])
            else:
                rest = concepts[:, j] - concepts[:, j].mean()
            if rest @ residual > 0:
                scores[j] = fit.score(concepts[:, [*chosen, j]], z)
        if not scores:
            break
        chosen.append(max(scores, key=scores.get))
        residual = z - LinearRegression().fit(concepts[:, chosen], z).predict(concepts[:, chosen])
    return chosen


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    similarities = rng.normal(size=(120, 7)) @ rng.normal(size=(7, 7)) * rng.random(7) + 3
    latents = np.maximum(similarities @ rng.normal(size=(7, 6)) + rng.normal(size=(120, 6)) - 3, 0)
    return latents, similarities


@pytest.mark.parametrize("block", [4, 256])
def test_concepts_and_weights_are_those_of_least_squares(data, block, monkeypatch):
    monkeypatch.setattr(linear_explanation, "NEURON_BLOCK", block)
    latents, similarities = data
    result = explain_linearly(sparse.csc_matrix(latents), similarities, 4)
    scaled = standardised(similarities)
    for neuron, z in enumerate(latents.T):
        expected = by_brute_force(z, similarities, 4)
        assert [one for one in result.concepts[neuron] if one >= 0] == expected
        for size in range(1, len(expected) + 1):
            weights = LinearRegression().fit(scaled[:, expected[:size]], z).coef_
            np.testing.assert_allclose(result.weights[size - 1, neuron, :size], weights, atol=1e-8)
            fitted = scaled[:, expected[:size]] @ weights
            np.testing.assert_allclose(result.predict(similarities, size, np.array([neuron]))[:, 0], fitted, atol=1e-8)


def test_a_planted_sum_is_found_on_other_images_too():
    rng = np.random.default_rng(2)
    similarities = rng.normal(size=(3000, 30))
    z = 2 * similarities[:, [4]] + similarities[:, [9]]
    result = explain_linearly(z[:2000], similarities[:2000], 5)
    assert result.concepts[0, :2].tolist() == [4, 9]
    assert result.weights[1, 0, 0] / result.weights[1, 0, 1] == pytest.approx(2, rel=0.1)
    predicted = result.predict(similarities[2000:], 2, np.array([0]))[:, 0]
    assert np.corrcoef(predicted, z[2000:, 0])[0, 1] > 0.999
    assert np.corrcoef(result.predict(similarities[2000:], 1, np.array([0]))[:, 0], z[2000:, 0])[0, 1] < 0.95


def test_neurons_that_nothing_explains_have_no_concepts():
    rng = np.random.default_rng(1)
    similarities = np.c_[rng.random(50), np.ones(50)]
    dead, against = np.zeros(50), -similarities[:, 0]
    result = explain_linearly(np.c_[dead, against], similarities, 5)
    assert (result.concepts == -1).all() and not result.weights.any()
    assert not result.predict(similarities, 5, np.arange(2)).any()
    twice = explain_linearly(similarities[:, [0]], np.c_[similarities[:, 0], similarities[:, 0]], 3)
    assert twice.concepts.tolist() == [[0, -1, -1]] and twice.weights.shape == (3, 1, 3)
    with pytest.raises(ValueError, match="2 images and similarities of 3"):
        explain_linearly(np.ones((2, 1)), np.ones((3, 1)))
