"""Which neurons of an SAE to retain: by interpretability, steerability, both, or any score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

BOTH = ("interpretability", "steerability")
NORMALIZE = ("minmax", "rank", "none")
COMBINE = {"sum": lambda scores: scores.sum(1), "product": lambda scores: scores.prod(1), "min": lambda s: s.min(1)}


@dataclass
class Pruned:
    """Outcome of :func:`prune`.

    Attributes:
        keep: Ids of the retained neurons, ascending.
        scores: Combined score of every neuron, ``[neurons]``.
        settings: How they were chosen, for the config of the model.
        report: One row per part (all, retained, discarded): neurons, mean of each column, share without a name.
    """

    keep: list[int]
    scores: np.ndarray
    settings: dict[str, Any]
    report: pd.DataFrame


def prune(
    frame: pd.DataFrame,
    by: str | Sequence[str] = "both",
    *,
    count: int | None = None,
    share: float | None = None,
    threshold: float | None = None,
    normalize: str = "minmax",
    combine: str = "sum",
    weights: Mapping[str, float] | None = None,
) -> Pruned:
    """Chooses the neurons to retain (CB-SAE paper, section 5.1: the best by I + S).

    Scores are normalised over all neurons before they are combined: the scales of interpretability and of steerability
    have nothing to do with each other. A neuron without a score has the lowest. Of equal ones the first are retained.

    Args:
        frame: One row per neuron, with the column ``neuron``.
        by: "both", a column, or several.
        count: How many to retain; or
        share: which share of all; or
        threshold: all whose combined score is at least that.
        normalize: "minmax" (0 to 1), "rank" (the share of neurons that are worse), or "none".
        combine: "sum", "product" or "min" of the columns.
        weights: Of columns, default 1.

    Raises:
        ValueError: If a column is missing or has no scores, not exactly one of count, share and threshold is given, or
            nothing would be retained.
    """
    columns = list(BOTH) if by == "both" else [by] if isinstance(by, str) else list(by)
    if missing := [column for column in columns if column not in frame.columns]:
        raise ValueError(f"the neuron table has no {missing[0]!r}: score the neurons first, or prune by another column")
    if normalize not in NORMALIZE or combine not in COMBINE:
        raise ValueError(
            f"normalize must be one of {', '.join(NORMALIZE)} and combine one of {', '.join(COMBINE)}; "
            f"got {normalize!r} and {combine!r}"
        )
    if sum(given is not None for given in (count, share, threshold)) != 1:
        raise ValueError("give exactly one of count, share and threshold")
    parts = [(weights or {}).get(c, 1.0) * _normalized(frame[c], c, normalize) for c in columns]
    scores = COMBINE[combine](np.stack(parts, 1))
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        kept = order[: int((scores >= threshold).sum())]
    else:
        kept = order[: round(share * len(frame)) if count is None else count]
    if not 0 < len(kept) <= len(frame) or (count is not None and count > len(frame)):
        raise ValueError(f"{len(kept)} of {len(frame)} neurons would be retained: ask for 1 to {len(frame)}")
    ids = frame["neuron"].to_numpy()
    settings = {"by": columns, "normalize": normalize, "combine": combine, "weights": dict(weights or {})}
    asked = {"count": count, "share": share, "threshold": threshold}
    settings |= {name: value for name, value in asked.items() if value is not None} | {"retained": len(kept)}
    return Pruned(np.sort(ids[kept]).tolist(), scores, settings, _report(frame, np.isin(ids, ids[kept]), columns))


def _normalized(values: pd.Series, name: str, how: str) -> np.ndarray:
    scores = values.to_numpy(np.float64)
    known = ~np.isnan(scores)
    if not known.any():
        raise ValueError(f"no neuron has a score in {name!r}")
    if how == "none":
        return np.where(known, scores, 0.0)
    if how == "rank":
        return np.where(known, (values.rank(method="average") - 1) / max(1, known.sum() - 1), 0.0)
    low, high = scores[known].min(), scores[known].max()
    return np.where(known, (scores - low) / (high - low if high > low else 1.0), 0.0)


def _report(frame: pd.DataFrame, retained: np.ndarray, columns: Sequence[str]) -> pd.DataFrame:
    rows = []
    for part, chosen in (("all", np.ones_like(retained)), ("retained", retained), ("discarded", ~retained)):
        rows_of = frame[chosen]
        row: dict[str, Any] = {"part": part, "neurons": len(rows_of)}
        if "name" in frame:
            row |= {"unnamed": int(rows_of["name"].isna().sum()), "concepts": rows_of["name"].nunique()}
        rows.append(row | {column: rows_of[column].mean() for column in columns})
    return pd.DataFrame(rows)
