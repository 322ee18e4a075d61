from cbsae_hub import Edit, Steering
from cbsae_hub.steering import RandomDirection
from cbsae_hub.steering.controls import CONTROL_SEED, with_controls


def test_a_steering_is_compared_with_three_controls_on_its_own_tokens():
    steering = Steering([Edit(3, 2.0)], tokens="patches")
    versions = with_controls(steering)
    assert list(versions) == ["original", "sae", "steered", "random"]
    assert versions["original"] is None and versions["steered"] is steering
    assert versions["sae"] == Steering([], tokens="patches")
    random = versions["random"]
    assert isinstance(random, RandomDirection) and random.like is steering and random.seed == CONTROL_SEED
    assert with_controls(steering, 5)["random"].seed == 5
