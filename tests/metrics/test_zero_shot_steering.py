"""What is said of many neurons together, compared with sums done by hand."""

import math

import pytest
import torch

from cbsae_hub.metrics.zero_shot_steering import Effect, ZeroShotScores, summarise, uniform_s_f

WORDS = tuple("abcdefghij")


def scores(s_f, strength=10.0, concept=None):
    count = len(s_f)
    steps = torch.arange(count) / 10
    return ZeroShotScores(
        neurons=torch.arange(count),
        strength=strength,
        s_f=torch.tensor(s_f),
        largest_delta=steps,
        total_variation=steps,
        concept=torch.tensor(concept or [0] * count),
        distance=1 + steps,
        vocabulary=WORDS,
    )


def test_a_summary_is_what_a_hand_counts():
    told = scores([0.05, 0.2, 0.6, 0.9], concept=[1, 2, 3, 3]).summary()
    assert told == pytest.approx(
        {
            "strength": 10.0,
            "neurons": 4,
            "share_above_gamma": 3 / 4,
            "share_beyond_loss": 3 / 4,
            "layer_s": 1.75 / 4,
            "count_above_beta": 2,
            "share_above_beta": 2 / 4,
            "concept_coverage": 1 / 10,  # d
            "distance": 1.15,
            "total_variation": 0.15,
        }
    )
    told = scores([0.05, 0.2, 0.6, 0.9], concept=[1, 2, 3, 3]).summary(gamma=0.5, beta=0.1, lost=0.2)
    assert told["share_beyond_loss"] == 0.25, "0.9 alone is above 0.7"
    assert (told["share_above_gamma"], told["count_above_beta"], told["concept_coverage"]) == (0.5, 3, 0.2)


def test_sets_of_neurons_beside_each_other():
    table = summarise(
        {
            "sae": [scores([0.0, 0.2, 0.6, 0.9]), scores([0.2, 0.7, 0.8, 0.9], math.inf)],
            "raw": [scores([0.0, 0.05]), scores([0.2, 0.05], math.inf)],
            "none": [scores([0.2, 0.2]), scores([0.6, 0.6], math.inf)],
        }
    )
    assert table["neurons_of"].tolist() == ["sae", "sae", "raw", "raw", "none", "none"]
    assert table["strength"].tolist() == [10.0, math.inf] * 3
    assert table["share_above_gamma"].tolist() == [0.75, 1.0, 0.0, 0.5, 1.0, 1.0]
    assert table["ratio_above_gamma"].tolist() == [1.0, 1.0, math.inf, 2.0, 0.75, 1.0]
    assert table["share_above_beta"].tolist() == [0.5, 0.75, 0.0, 0.0, 0.0, 1.0]
    assert table["ratio_above_beta"].tolist() == [1.0, 1.0, math.inf, math.inf, math.inf, 0.75]
    assert summarise({"nothing": [scores([0.0])]})["ratio_above_gamma"].isna().all()
    table = summarise({"sae": [scores([0.0, 0.2, 0.6, 0.9])], "raw": [scores([0.3, 0.6])]}, lost=0.45)
    assert table["share_beyond_loss"].tolist() == [0.5, 0.5] and table["ratio_beyond_loss"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("sweeps", [{}, {"a": []}, {"a": [scores([0.1])], "b": [scores([0.1], 20.0)]}])
def test_what_cannot_be_compared_is_said(sweeps):
    with pytest.raises(ValueError, match="same strengths"):
        summarise(sweeps)


def test_an_answer_that_is_only_lost():
    before = torch.zeros(2, 4)
    before[0, 1] = 1.0  # (3/4)^2 + 3 (1/4)^2
    before[1] = 1 / 4  # nothing to lose
    assert uniform_s_f(before) == pytest.approx((0.75 + 0.0) / 2)


def test_beyond_the_loss_is_how_few_words_share_the_new_answer():
    before, after = torch.zeros(3, 1000), torch.zeros(3, 1000)
    before[:, 0], before[:, 1] = 0.7, 0.3
    after[:, 10:14] = 1 / 4
    assert Effect(before, after).s_f - uniform_s_f(before) == pytest.approx(1 / 4, abs=2e-3)
