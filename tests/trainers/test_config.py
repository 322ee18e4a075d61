import json
import re

import pytest

from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig


def test_defaults_are_the_reference_recipe():
    config = SAETrainConfig()
    assert config.group_sizes(1024) == (4096, 8192, 16384, 36864)
    assert config.peak_lr(65_536) == pytest.approx(1e-4)
    assert SAETrainConfig(lr="auto_paper").peak_lr(65_536) == pytest.approx(5e-4)
    assert (config.batch_size, config.k, config.auxk_alpha, config.steps) == (4096, 20, 0.03, 100_000)


def test_groups_partition_the_neurons_whatever_the_rounding():
    config = SAETrainConfig(d_sae=100, group_fractions=[0.333, 0.333, 0.334])
    assert config.group_sizes(7) == (33, 33, 34)
    assert SAETrainConfig(d_sae=2048).group_sizes(128) == (128, 256, 512, 1152)
    assert SAETrainConfig(group_fractions=None).group_sizes(128) is None


def test_learning_rate_rises_stays_and_falls():
    config = SAETrainConfig(lr=1.0, warmup_steps=10, decay_start=50, steps=100)
    assert [config.lr_at(step, 1) for step in (0, 5, 10, 50, 75, 99)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0.02])
    assert SAETrainConfig(lr=1.0, warmup_steps=0).lr_at(0, 1) == 1.0


def test_json_round_trip():
    config = SAETrainConfig(lr=3e-4, d_sae=64, group_fractions=(0.5, 0.5), log_with=("jsonl", "trackio"))
    assert SAETrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert SAETrainConfig(lr="1e-4").lr == 1e-4
    assert SAETrainConfig(auxk_alpha=0).auxk_alpha == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 2.5}, "k must be a valid integer, got 2.5"),
        ({"k": True}, "k must be a valid integer, got True"),
        ({"k": 0}, "k must be greater than 0, got 0"),
        ({"lr": "auto"}, "lr must be a valid number or 'auto_code' or 'auto_paper', got 'auto'"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"lr": True}, "lr must be a valid number"),
        ({"lr": 0}, "lr must be greater than 0"),
        ({"activation": "tanh"}, "activation must be 'relu'"),
        ({"betas": [0.9]}, "betas lacks item 2"),
        ({"betas": [0.9, "x"]}, r"betas\[1\] must be a valid number, got 'x'"),
        ({"group_fractions": [0.5, 0.6]}, "group_fractions must be positive and sum to 1"),
        ({"group_fractions": []}, "group_fractions must be"),
        ({"heldout_fraction": 1.0}, "heldout_fraction must be less than 1"),
        ({"heldout_fraction": 0}, "heldout_fraction must be greater than 0"),
        ({"decay_start": 5, "steps": 5}, "decay_start must be below steps"),
        ({"kk": 1}, r"unknown settings kk; known are steps, batch_size.*; did you mean k\?"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SAETrainConfig.from_dict(settings)
    with pytest.raises(ValueError):
        SAETrainConfig(**settings)


# ---------------------------------------------------------------------------------------------- what is too small

LARGE = {"d_sae": 100, "steps": 1000, "batch_size": 100, "dead_after_tokens": 10_000, "warmup_steps": 100}
LARGE |= {"threshold_start": 100}


def doubts(tokens=1000, heldout=1000, **changes):
    return SAETrainConfig(**LARGE | changes).doubts(tokens, heldout, 16)


def test_a_run_that_is_large_enough_raises_no_doubt():
    assert doubts() == []
    assert SAETrainConfig().doubts(20_000_000, 400_000, 1024) == [], "the reference recipe, on CLIP's patches"
    assert CBSAETrainConfig().doubts(20_000_000, 400_000, 1024) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 999}, ["100 neurons are more than a tenth of the 999 tokens"]),
        ({"d_sae": None, "expansion": 7}, ["112 neurons are more than a tenth of the 1,000 tokens"]),
        ({"heldout": 12}, ["the threshold is calibrated and .* measured on 12 held-out.*raise heldout_fraction"]),
        ({"heldout": 12, "activation": "topk"}, ["the figures are measured on 12 held-out"]),
        ({"eval_tokens": 999}, ["on 999 held-out tokens.*raise eval_tokens"]),
        ({"dead_after_tokens": 100_001}, ["ends after 100,000 tokens, before dead_after_tokens 100,001: .*counted"]),
        ({"dead_after_tokens": 90_000}, ["90,000 is reached at the end of the run, of 100,000 tokens"]),
        ({"dead_after_tokens": 89_999}, []),
        ({"warmup_steps": 501}, ["warmup_steps 501 is more than half of the 1,000 steps"]),
        ({"warmup_steps": 500}, []),
        ({"threshold_start": 999}, ["threshold_start 999 is not before the end of the 1,000 steps"]),
        ({"threshold_start": 998}, []),
        ({"threshold_start": 5000, "activation": "topk"}, []),
        ({"batch_size": 1001, "tokens": 1000}, ["1,000 tokens are fewer than one batch of 1,001: lower batch_size"]),
    ],
    ids=str,
)
def test_what_is_too_small_is_said_in_words(changes, said):
    found = doubts(**changes)
    assert len(found) == len(said), found
    assert all(re.search(expected, doubt) for expected, doubt in zip(said, found)), found


def test_a_bottleneck_needs_a_batch_and_held_out_tokens():
    found = CBSAETrainConfig(batch_size=100).doubts(99, 10, 16)
    assert [doubt.split(":")[0] for doubt in found] == [
        "99 tokens are fewer than one batch of 100",
        "the figures are measured on 10 held-out tokens, and 1,000 are the least for that",
    ]
