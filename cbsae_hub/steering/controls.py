"""A steering beside what its effect is compared with."""

from cbsae_hub.steering.edits import AnySteering, DiffMean, RandomDirection, Steering

CONTROL_SEED = 0
"""Seed of the random direction, where nobody chooses one."""


def with_controls(steering: Steering | DiffMean, seed: int = CONTROL_SEED) -> dict[str, AnySteering | None]:
    """The four versions of an experiment, for one batch of a steerer.

    Args:
        steering: The steering that is tried.
        seed: Seed of the random direction.

    Returns:
        ``original`` (no steering), ``sae`` (the SAE's reconstruction with nothing changed), ``steered``, and
        ``random`` (a random direction, as long).
    """
    return {
        "original": None,
        "sae": Steering([], tokens=steering.tokens),
        "steered": steering,
        "random": RandomDirection(steering, seed),
    }
