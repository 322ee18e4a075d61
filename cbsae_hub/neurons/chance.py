"""Names that are no better than chance, their mark, and the neurons to show first."""

import math
from typing import Any

import pandas as pd

SURE = 0.95  # share of the null below a name's score from which it counts as more than chance
SEVERAL = 6  # pictures, as many as a report shows of a neuron
MARK = "by chance?"
"""Stands beside a name that is no better than chance, wherever it is shown."""
MEANING = f"“{MARK}”: this name is no better than chance, for more than 5 % of names by chance fit as well."


def by_chance(row: Any) -> bool:
    """Whether a row of the neuron table has a name that is no better than chance; False where nobody measured it."""
    return isinstance(row.name, str) and getattr(row, "null_percentile", math.nan) < SURE


def marked(name: str, row: Any) -> str:
    """A neuron's name, with :data:`MARK` if it is no better than chance."""
    return f"{name} ({MARK})" if by_chance(row) else name


def better(frame: pd.DataFrame, nonsense: float | None = None) -> pd.Series:
    """Whether names are better than chance and, if its score is known, than nonsense: a bool for each row.

    Args:
        frame: Rows of the neuron table.
        nonsense: See :func:`telling`.
    """
    sure = frame["null_percentile"] >= SURE
    return sure if nonsense is None else sure & (frame["score"] > nonsense)


def telling(frame: pd.DataFrame, nonsense: float | None = None) -> pd.DataFrame:
    """The neurons to show first, best first: they are specific, and their names are better than chance.

    Args:
        frame: Rows of the neuron table.
        nonsense: Score of names that an untrained SAE gets, see :class:`cbsae_hub.pipeline.nonsense.Nonsense`: names
            have to be better; None where nobody measured it.
    """
    rows = frame[_specific(frame) & frame["name"].notna() & better(frame, nonsense)]
    return rows.sort_values("score", ascending=False, kind="stable")


def clear(frame: pd.DataFrame, images: int) -> pd.DataFrame:
    """The neurons to show first where names say nothing: they are specific, the most monosemantic ones first.

    Any two pictures are alike in something: a neuron that fires on fewer than :data:`SEVERAL` is not among them.

    Args:
        frame: Rows of the neuron table.
        images: Number of pictures that it was made of.
    """
    several = frame["density"] * images >= SEVERAL - 0.5
    ordered = frame[_specific(frame) & several & frame["monosemanticity"].notna()]
    return ordered.sort_values("monosemanticity", ascending=False, kind="stable")


def first_to_show(frame: pd.DataFrame, images: int, nonsense: float | None = None) -> pd.DataFrame:
    """:func:`telling` neurons; if there are none, :func:`clear` ones; if there are none of these either, all.

    Args:
        frame: Rows of the neuron table.
        images: See :func:`clear`.
        nonsense: See :func:`telling`.
    """
    for rows in (telling(frame, nonsense), clear(frame, images)):
        if len(rows):
            return rows
    return frame


def _specific(frame: pd.DataFrame) -> pd.Series:
    """Neither on hardly any token nor on many. Concept neurons grade every patch: that they are dense says nothing."""
    concept = (frame["kind"] == "cb") & (frame["status"] != "dead")
    return ~frame["status"].isin(("dead", "rare", "dense")) | concept
