"""Counts of neurons that are interpretable, steerable, both or neither."""

from typing import Any

import pandas as pd

from cbsae_hub.neurons.table import require_columns

AXES = ("interpretability", "steerability")
QUADRANTS = ("low / low", "high / low", "low / high", "high / high")  # interpretability / steerability


def quadrants(frame: pd.DataFrame, threshold: str | float | tuple[str | float, str | float] = "mean") -> dict[str, Any]:
    """Counts neurons that are interpretable, steerable, both or neither (CB-SAE paper, figure 3).

    Args:
        frame: With the columns ``interpretability`` and ``steerability``; neurons that lack either do not count.
        threshold: Value from which both axes count as high: "mean", "median" or a number; or one of these for each
            axis. The paper's second version has the mean steerability of the layer's raw neurons, a null, too.

    Returns:
        ``thresholds`` (of both axes), ``counts`` and ``shares`` by the names of ``QUADRANTS``, and ``left_out``.

    Raises:
        ValueError: If a column is missing, no neuron has both, or the threshold is unknown.
    """
    require_columns(frame, AXES, "score the neurons and steer with them first")
    both = frame[list(AXES)].dropna()
    if both.empty:
        raise ValueError("no neuron has both interpretability and steerability")
    rules = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    if unknown := [rule for rule in rules if isinstance(rule, str) and rule not in ("mean", "median")]:
        raise ValueError(f"threshold must be mean, median or a number, got {unknown[0]!r}")
    limits = [float(both[c].agg(rule) if isinstance(rule, str) else rule) for c, rule in zip(both, rules)]
    high = both["interpretability"] >= limits[0], both["steerability"] >= limits[1]
    which = high[0].astype(int) + 2 * high[1].astype(int)
    counts = {name: int((which == i).sum()) for i, name in enumerate(QUADRANTS)}
    shares = {name: count / len(both) for name, count in counts.items()}
    return {"thresholds": limits, "counts": counts, "shares": shares, "left_out": len(frame) - len(both)}
