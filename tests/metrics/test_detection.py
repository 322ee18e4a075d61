"""Detection against every order of the answers, and the draw of its images."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from cbsae_hub.metrics.detection import Trial, detection_score, draw_trials


@pytest.mark.parametrize("values", [(3, 2, 1, 0), (0, 1, 2, 3), (1, 1, 1, 1), (2, 1, 1, 0), (0, 0, 1, 0), (2, 2, 2, 1)])
def test_ties_count_as_chance_would_get_them(values):
    similarities, trial = np.array(values, float), Trial(np.array([0, 2]), np.array([1, 3]))
    shares = []
    for order in itertools.permutations(range(4)):
        yes = sorted(order, key=lambda i: -similarities[i])[:2]
        shares.append(sum((i in yes) == (i in (0, 2)) for i in range(4)) / 4)
    assert detection_score(similarities, trial) == pytest.approx(np.mean(shares))


def test_images_are_of_all_strengths_and_as_many_silent_ones():
    rng = np.random.default_rng(0)
    latents = np.maximum(rng.normal(size=(80, 6)), 0)
    latents[:, 2] = 0
    latents[3:, 3] = 0
    latents[:3, 3] = 1
    latents[:, 4] = -rng.random(80)
    latents[:, 5] = 1
    trials = draw_trials(sparse.csc_matrix(latents), 5, seed=2)
    assert [len(trial.firing) for trial in trials] == [len(trial.silent) for trial in trials] == [5, 5, 0, 3, 0, 0]
    for neuron, (firing, silent) in enumerate(trials):
        assert (latents[firing, neuron] > 0).all() and (latents[silent, neuron] <= 0).all()
        assert len(set(silent)) == len(silent)
    order = np.argsort(-latents[:, 0])[: (latents[:, 0] > 0).sum()]
    assert trials[0].firing[0] == order[0] and trials[0].firing[-1] == order[-1]
    assert all(np.array_equal(a, b) for a, b in zip(draw_trials(latents, 5, seed=2)[1], trials[1]))
    assert not np.array_equal(draw_trials(latents, 5, seed=3)[0].silent, trials[0].silent)
    assert np.isnan(detection_score(np.zeros(80), trials[2]))


def test_a_judge_that_knows_is_always_right_and_one_that_does_not_half_of_the_time():
    rng = np.random.default_rng(1)
    latents = np.maximum(rng.normal(size=(400, 60)) - 0.5, 0)
    trials = draw_trials(latents, 10)
    assert all(detection_score(latents[:, i], trial) == 1 for i, trial in enumerate(trials))
    assert np.mean([detection_score(rng.random(400), trial) for trial in trials]) == pytest.approx(0.5, abs=0.05)
