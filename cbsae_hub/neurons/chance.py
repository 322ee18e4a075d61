"""Names that are no better than chance, their mark, and the neurons to show first."""

import math
from typing import Any

import pandas as pd

SURE = 0.95  # share of the null below a name's score from which it counts as more than chance
MARK = "by chance?"
"""Stands beside a name that is no better than chance, wherever it is shown."""
MEANING = f"“{MARK}”: this name is no better than chance, for more than 5 % of names by chance fit as well."


def by_chance(row: Any) -> bool:
    """Whether a row of the neuron table has a name that is no better than chance; False where nobody measured it."""
    return isinstance(row.name, str) and getattr(row, "null_percentile", math.nan) < SURE


def marked(name: str, row: Any) -> str:
    """A neuron's name, with :data:`MARK` if it is no better than chance."""
    return f"{name} ({MARK})" if by_chance(row) else name


def telling(frame: pd.DataFrame, nonsense: float | None = None) -> pd.DataFrame:
    """The neurons to show first, best first: they are specific, and their names are better than chance.

    Concept neurons grade every patch: that they are dense says nothing.

    Args:
        frame: Rows of the neuron table.
        nonsense: Score of names that an untrained SAE gets, see :class:`cbsae_hub.pipeline.nonsense.Nonsense`: names
            have to be better; None where nobody measured it.
    """
    specific = ~frame["status"].isin(("dead", "dense")) | ((frame["kind"] == "cb") & (frame["status"] != "dead"))
    sure = frame["name"].notna() & (frame["null_percentile"] >= SURE)
    if nonsense is not None:
        sure &= frame["score"] > nonsense
    return frame[specific & sure].sort_values("score", ascending=False, kind="stable")


def first_to_show(frame: pd.DataFrame, nonsense: float | None = None) -> pd.DataFrame:
    """:func:`telling` neurons; if there are none, those that are specific, the most monosemantic ones first.

    If there are none of these either, all neurons.

    Args:
        frame: Rows of the neuron table.
        nonsense: See :func:`telling`.
    """
    if len(best := telling(frame, nonsense)):
        return best
    specific = frame[~frame["status"].isin(("dead", "dense"))]
    return (specific if len(specific) else frame).sort_values("monosemanticity", ascending=False, kind="stable")
