"""Parts that all steerers of diffusers' pipelines share: seeds, batches of drawings, an end before the last step."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cbsae_hub.models import checks
from cbsae_hub.steering.tower import Stopped


def plan(count: int, seeds: Sequence[int], batch: int) -> list[tuple[list[int], list[int]]]:
    """Batches of drawings: of each drawing the number of its input and its seed; first all seeds of the first input.

    Raises:
        ValueError: If there are no inputs or no seeds.
    """
    each = [(number, int(seed)) for number in range(count) for seed in seeds]
    if not each:
        raise ValueError("generate needs at least one input and one seed")
    parts = [each[start : start + batch] for start in range(0, len(each), batch)]
    return [([number for number, _ in part], [seed for _, seed in part]) for part in parts]


def require_drawable(num_inference_steps: int, guidance_scale: float) -> None:
    """Checks the settings of a drawing.

    Raises:
        ValueError: If there are no steps, or the guidance is no number.
    """
    checks.integer("num_inference_steps", num_inference_steps, 1, 1000)
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be a finite number, got {guidance_scale}")


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator of noise on the CPU for each drawing: its noise then is the same on each device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def asking(stop: Callable[[], bool] | None) -> Callable[..., dict[str, Any]]:
    """A callback of pipelines that ends a drawing.

    Args:
        stop: Called after every denoising step; once it is true, the callback raises :class:`Stopped`.
    """

    def ask(*_: Any) -> dict[str, Any]:
        if stop is not None and stop():
            raise Stopped("the drawing is no longer wanted")
        return {}

    return ask


def one_call(pipeline: Any) -> Any:
    """A copy of a pipeline for one call, with the same models."""
    own = copy.copy(pipeline)
    own.scheduler = copy.deepcopy(pipeline.scheduler)  # it counts its steps: threads would advance each other's
    own.set_progress_bar_config(disable=True)  # who draws much, shows how many drawings are done
    return own
