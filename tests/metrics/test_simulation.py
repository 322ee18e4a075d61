"""Names as simulations, against scikit-learn and numpy pair by pair."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import average_precision_score

from cbsae_hub.metrics import simulation
from cbsae_hub.metrics.simulation import correlations, simulate_names

IMAGES, NEURONS, NAMES = 60, 9, 5
OWN = np.array([0, 1, 2, 3, 4, 0, 1, -1, 2])


@pytest.fixture(params=["sparse", "signed"])
def data(request):
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(IMAGES, NEURONS))
    if request.param == "sparse":
        latents = np.maximum(latents - 0.8, 0)
    latents[:, 4] = 0.0  # never fires here
    latents[:, 5] = 2.5  # constant
    return latents, np.round(rng.normal(size=(IMAGES, NAMES)), 1)


@pytest.mark.parametrize("block", [2, 512])
def test_every_pair_is_that_of_other_libraries(data, block, monkeypatch):
    monkeypatch.setattr(simulation, "NEURON_BLOCK", block)
    latents, similarities = data
    result = simulate_names(sparse.csc_matrix(latents), similarities, OWN, others=NAMES)
    for neuron, own in enumerate(OWN):
        z = latents[:, neuron]
        scores = {name: np.corrcoef(z, similarities[:, name])[0, 1] if z.std() else np.nan for name in range(NAMES)}
        fires = {name: average_precision_score(z > 0, similarities[:, name]) for name in range(NAMES) if (z > 0).any()}
        if own < 0 or not fires:
            assert np.isnan([result.correlation[neuron], result.average_precision[neuron]]).all()
            assert np.isnan([result.correlation_null[neuron], result.percentile[neuron]]).all()
            continue
        others = [name for name in range(NAMES) if name != own]
        assert result.average_precision[neuron] == pytest.approx(fires[own])
        assert result.average_precision_null[neuron] == pytest.approx(np.mean([fires[name] for name in others]))
        if neuron == 5:
            assert np.isnan([result.correlation[neuron], result.correlation_null[neuron]]).all()
            continue
        assert result.correlation[neuron] == pytest.approx(scores[own])
        assert result.correlation_null[neuron] == pytest.approx(np.mean([scores[name] for name in others]))
        assert result.percentile[neuron] == pytest.approx(np.mean([scores[name] < scores[own] for name in others]))


def test_a_right_name_beats_other_names_and_a_name_at_random_does_not():
    rng = np.random.default_rng(0)
    similarities = rng.normal(size=(2000, 50))
    fires = similarities[:, :25] > 1.3
    latents = fires * rng.random((2000, 25))
    right = simulate_names(latents, similarities, np.arange(25), seed=1)
    assert (right.percentile == 1).all() and right.average_precision.min() > 0.99
    wrong = simulate_names(latents, similarities, np.arange(25) + 25, seed=1)
    assert abs(wrong.percentile.mean() - 0.5) < 0.15 and abs(wrong.correlation.mean()) < 0.02


def test_labels_that_are_halved_or_doubled_lower_both_scores():
    """A neuron that is the concept itself, in closed form: n of N images."""
    n, total = 40, 400
    neuron = np.zeros((total, 1))
    neuron[:n] = 1
    half, twice = neuron.copy(), neuron.copy()
    half[: n // 2], twice[n : 2 * n] = 0, 1
    scores = [simulate_names(neuron, labels, np.array([0])) for labels in (neuron, half, twice)]
    assert [one.average_precision[0] for one in scores] == pytest.approx([1, 0.5 + 0.5 * n / total, 0.5])
    p, q = n / total, n / 2 / total
    expected = [1, (q - p * q) / np.sqrt(p * (1 - p) * q * (1 - q)), np.sqrt(p * (1 - 2 * p) / (2 * p * (1 - p)))]
    assert [one.correlation[0] for one in scores] == pytest.approx(expected)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="3 images and similarities of 2"):
        correlations(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="NaN"):
        simulate_names(np.ones((1, 1)), np.full((1, 1), np.nan), np.array([0]))
    assert np.isnan(simulate_names(np.ones((3, 2)), np.zeros((3, 0)), np.array([-1, -1])).percentile).all()
