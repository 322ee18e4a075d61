"""What is estimated from activations before the first step."""

import itertools
from collections.abc import Iterable

from torch import Tensor

SCALE_BATCHES = 100


def input_scale(batches: Iterable[Tensor]) -> float:
    """``sqrt(mean |x|^2)`` over at most 100 batches ``[n, d_in]``; activations divided by it have unit mean square."""
    squares, tokens = 0.0, 0
    for batch in itertools.islice(batches, SCALE_BATCHES):
        squares += batch.double().square().sum().item()
        tokens += len(batch)
    if tokens == 0 or squares == 0:
        raise ValueError("cannot estimate the scale of the activations: there are none, or all are zero")
    return (squares / tokens) ** 0.5


def geometric_median(points: Tensor, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point with the smallest mean distance to ``points [n, d]``, by Weiszfeld's iteration.

    Args:
        points: ``[n, d]``.
        iterations: At most so many.
        tolerance: Stop once a step is shorter than this part of the points' mean distance.

    Returns:
        ``[d]``, in the dtype of ``points``.
    """
    exact = points.double()
    median = exact.mean(0)
    for _ in range(iterations):
        distances = (exact - median).norm(dim=1).clamp_min(1e-12)
        weights = 1 / distances
        last, median = median, weights @ exact / weights.sum()
        if (median - last).norm() <= tolerance * distances.mean():
            break
    return median.to(points.dtype)
