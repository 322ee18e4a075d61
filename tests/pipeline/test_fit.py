"""Settings that follow the data: what they must be, whatever the amount."""

import pytest

from cbsae_hub.pipeline.fit import Amount, fit, fit_bottleneck
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig

AMOUNTS = [
    Amount(2, 1, 16),
    Amount(30, 4, 32),
    Amount(600, 64, 128),
    Amount(600, 1, 768),
    Amount(5000, 256, 384),
    Amount(50_000, 1, 64),
    Amount(1_281_167, 2, 1024),
]


@pytest.mark.parametrize("effort", ["quick", "normal", "thorough"])
@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda one: f"{one.images}x{one.tokens_per_image}x{one.d_in}")
def test_settings_are_of_a_size_that_the_data_bear(amount, effort):
    config = SAETrainConfig.from_dict(fit(amount, effort))
    neurons = config.neurons(amount.d_in)
    heldout = round(config.heldout_fraction * amount.images)
    assert heldout < amount.images
    assert config.batch_size <= max(amount.tokens, 1), "every batch is full"
    assert 1 <= config.k <= neurons // 4
    assert neurons == 64 or neurons <= 64 * amount.d_in
    assert neurons == 64 or neurons <= 1.5 * amount.images, "most neurons have pictures of their own"
    assert config.warmup_steps < config.decay_start < config.steps
    assert config.threshold_start < config.steps
    seen = config.steps * config.batch_size
    assert config.dead_after_tokens <= seen / 10, "a neuron can die, and come back, in this run"
    assert CBSAETrainConfig.from_dict(fit_bottleneck(amount, effort)).batch_size <= max(amount.tokens, 1)


def test_small_data_are_seen_often_and_large_data_ten_times():
    small, large = Amount(600, 64, 128), Amount(1_281_167, 2, 1024)
    seen = {one: fit(one)["steps"] * fit(one)["batch_size"] for one in (small, large)}
    assert seen[small] == pytest.approx(1_000_000, rel=0.01)
    assert seen[large] == pytest.approx(10 * large.tokens, rel=0.01)
    for effort, factor in {"quick": 0.25, "thorough": 4}.items():
        assert fit(large, effort)["steps"] * fit(large, effort)["batch_size"] == pytest.approx(
            factor * seen[large], rel=0.01
        )


def test_at_least_twenty_pictures_are_held_out_where_there_are_a_hundred():
    assert [round(Amount(n, 1, 8).heldout_fraction * n) for n in (100, 600, 1000, 5000)] == [20, 20, 20, 100]
    assert round(Amount(20, 1, 8).heldout_fraction * 20) == 4


@pytest.mark.parametrize("images", [2, 3, 4, 5, 7])
def test_of_a_handful_of_pictures_at_least_one_is_held_out(images):
    amount = Amount(images, 1, 32)
    assert 1 <= round(fit(amount)["heldout_fraction"] * images) < images and amount.tokens >= 1
    assert fit(amount)["batch_size"] <= amount.tokens


@pytest.mark.parametrize("images", [2, 3, 24, 40, 100, 600])
def test_pictures_of_one_token_each_take_thousands_of_steps_at_most(images):
    assert 100 <= fit(Amount(images, 1, 32))["steps"] <= 5000
