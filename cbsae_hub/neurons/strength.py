"""The value that a neuron is set to where nobody has chosen one."""

from collections.abc import Sequence

import numpy as np

WITHOUT_ALPHA = 4.0  # times p99, where steerability was not measured


def usual_strength(p99: float, alpha: float | None, others: Sequence[float]) -> float:
    """The value that a neuron is set to at first, in units of latents: that at which steerability was measured.

    Args:
        p99: The neuron's 99th percentile; 0 or NaN if it never fires.
        alpha: The value at which steerability was measured; None if it was not.
        others: Those of all neurons: their median stands for that of a neuron that never fires.
    """
    return float(alpha or WITHOUT_ALPHA * (p99 if p99 > 0 else np.nanmedian(others)))
