"""Pruning: the neurons of an SAE to retain, by interpretability, steerability, both, or any score."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cbsae_hub.models import checks
from cbsae_hub.neurons.table import require_columns
from cbsae_hub.words import name_key

logger = logging.getLogger(__name__)

INTERPRETED, STEERED = "interpretability", "steerability"
NORMALIZE = ("minmax", "rank", "none")
COMBINE: dict[str, Callable[..., np.ndarray]] = {"sum": np.sum, "product": np.prod, "min": np.min}


@dataclass
class Pruned:
    """Outcome of :func:`prune`.

    Attributes:
        keep: Ids of the retained neurons, ascending.
        scores: Combined score of every neuron, indexed by its id.
        settings: Settings of the choice, for the config of the model.
        report: One row per part (all, retained, discarded): ``neurons``, how many are ``dead`` and ``unnamed``, how
            many ``concepts`` name them, the mean of each column over the neurons that have a value.
        lost_concepts: Names that no retained neuron has, in alphabetical order.
    """

    keep: list[int]
    scores: pd.Series
    settings: dict[str, Any]
    report: pd.DataFrame
    lost_concepts: list[str]


def prune(
    neurons: pd.DataFrame,
    by: str | Sequence[str] = "both",
    *,
    interpretability: str = INTERPRETED,
    count: int | None = None,
    share: float | None = None,
    threshold: float | None = None,
    normalize: str = "minmax",
    combine: str = "sum",
    weights: Mapping[str, float] | None = None,
) -> Pruned:
    """Chooses the neurons to retain (CB-SAE paper, section 5.1: the best by I + S).

    Scores are normalised over all neurons before they are combined: the scales of interpretability and of steerability
    have nothing to do with each other. What is dead or has no score gets 0 and takes no part in the normalisation. Of
    equal neurons the first are retained.

    Args:
        neurons: The rows of a neuron table, with the column ``neuron``; ``status`` says which are dead.
        by: "both", which is interpretability alone, with a warning, where no neuron has a steerability; a column, or
            several.
        interpretability: The column that "both" and "interpretability" stand for, "name_correlation" for instance.
        count: Number of neurons to retain; or
        share: share of all neurons to retain, above 0 and up to 1; or
        threshold: combined score from which a neuron is retained.
        normalize: "minmax" (0 to 1), "rank" (the share of the other neurons that are worse), or "none".
        combine: "sum", "product" or "min" of the columns.
        weights: Weights of columns in a sum, default 1.

    Raises:
        ValueError: If a column is missing or has no scores, a setting is none of those, not exactly one of count, share
            and threshold is given, or nothing would be retained.
    """
    columns = [INTERPRETED, STEERED] if by == "both" else [by] if isinstance(by, str) else list(by)
    columns = [interpretability if column == INTERPRETED else column for column in columns]
    if by == "both" and not (STEERED in neurons and neurons[STEERED].notna().any()):
        logger.warning("no neuron has a steerability (score with --steer): pruned by interpretability alone")
        columns.remove(STEERED)
    require_columns(neurons, ["neuron", *columns], "score the neurons first, or prune by another column")
    if not columns or len(set(columns)) < len(columns) or not neurons["neuron"].is_unique:
        raise ValueError("columns to prune by must be at least one and all different, and so must the neurons be")
    checks.choice("normalize", normalize, NORMALIZE)
    checks.choice("combine", combine, COMBINE)
    weights = _weights(weights, columns, combine)
    frame = neurons.sort_values("neuron")
    dead = frame["status"].eq("dead") if "status" in frame else pd.Series(False, frame.index)
    parts = [weights.get(column, 1.0) * _normalized(frame[column].mask(dead), normalize) for column in columns]
    scores = pd.Series(COMBINE[combine](parts, axis=0), frame["neuron"].to_numpy())
    keep = scores.sort_values(ascending=False, kind="stable").index[: _how_many(scores, count, share, threshold)]
    limits = {"count": count, "share": share, "threshold": threshold}
    settings = {"by": columns, "normalize": normalize, "combine": combine, "weights": weights, "retained": len(keep)}
    settings |= {name: value for name, value in limits.items() if value is not None}
    retained = frame["neuron"].isin(keep)
    report, lost = _report(frame, dead, retained, columns), _lost(frame, retained)
    return Pruned(sorted(keep.tolist()), scores, settings, report, lost)


def _weights(weights: Mapping[str, float] | None, columns: Sequence[str], combine: str) -> dict[str, float]:
    if weights and (combine != "sum" or not set(weights) <= set(columns)):
        raise ValueError(f"weights are of a sum of {', '.join(columns)}, got {dict(weights)!r:.80} and {combine!r}")
    return {column: checks.positive(f"the weight of {column}", weight) for column, weight in (weights or {}).items()}


def _normalized(values: pd.Series, how: str) -> np.ndarray:
    scores = pd.to_numeric(values).astype("float64")
    defined = scores.notna()
    if not defined.any() or np.isinf(scores).any():
        fault = "infinite scores" if defined.any() else "no score of any living neuron"
        raise ValueError(f"{values.name!r} has {fault}")
    if how == "rank":
        scores = scores.rank(method="average")
    if how != "none":
        low, high = scores.min(), scores.max()
        # One value for all ranks nothing, but having it is more than having none.
        scores = (scores - low) / (high - low) if high > low else scores * 0 + 1
    return scores.fillna(0.0).to_numpy()


def _how_many(scores: pd.Series, count: int | None, share: float | None, threshold: float | None) -> int:
    if sum(limit is not None for limit in (count, share, threshold)) != 1:
        raise ValueError("give exactly one of count, share and threshold")
    if count is not None:
        return checks.integer("count", count, 1, len(scores))
    if share is not None:
        if checks.positive("share", share) > 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}; a number of neurons is count={share}")
        return max(1, round(share * len(scores)))
    if not (reached := int((scores >= threshold).sum())):
        raise ValueError(f"no neuron scores {threshold}: the best one has {scores.max():.6g}")
    return reached


def _report(frame: pd.DataFrame, dead: pd.Series, retained: pd.Series, columns: Sequence[str]) -> pd.DataFrame:
    rows = []
    for part, mask in (("all", retained | True), ("retained", retained), ("discarded", ~retained)):
        row: dict[str, Any] = {"part": part, "neurons": int(mask.sum()), "dead": int(dead[mask].sum())}
        if "name" in frame:
            names = frame.loc[mask, "name"]
            row |= {"unnamed": int(names.isna().sum()), "concepts": names.dropna().map(name_key).nunique()}
        rows.append(row | {column: pd.to_numeric(frame.loc[mask, column]).mean() for column in columns})
    return pd.DataFrame(rows)


def _lost(frame: pd.DataFrame, retained: pd.Series) -> list[str]:
    if "name" not in frame:
        return []
    keys = frame["name"].dropna().map(name_key)
    return sorted(set(keys[~retained]) - set(keys[retained]))
