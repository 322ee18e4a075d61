"""The tables of the study of pairs, from its rows of concepts and of pairs."""

import numpy as np
import pandas as pd
from scipy import stats

from cbsae_hub.studies.tables import markdown_table

# Measures of a concept, with the column of their level of chance where there is one.
MEASURES: dict[str, str | None] = {
    "coalition": "coalition_chance", "switch": "switch_chance", "right": None, "precise": None, "still": None,
    "cosine": None, "f1": "f1_chance", "selectivity": "selectivity_chance", "effect": None, "damage": None,
}  # fmt: skip
TITLES = {
    "coalition": "coalition F0.5", "switch": "switch F1", "right": "switches rightly", "precise": "switches are right",
    "cosine": "MCC", "f1": "F1 of the matched", "selectivity": "selectivity", "effect": "effect", "damage": "damage",
}  # fmt: skip
ALL = "all"
RESAMPLES = 2000  # of the bootstrap


def interval(values: pd.Series, seed: int = 0) -> dict[str, float]:
    """Mean of the values that there are, and its 95 % interval by a bootstrap."""
    values = values.dropna().to_numpy(dtype=float)
    if not len(values):
        return dict.fromkeys(("mean", "low", "high"), float("nan"))
    mean = float(values.mean())
    if len(values) == 1 or np.ptp(values) == 0:
        return dict.fromkeys(("mean", "low", "high"), mean)
    rng = np.random.default_rng(seed)
    low, high = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng
    ).confidence_interval
    return {"mean": mean, "low": float(low), "high": float(high)}


def summary(concepts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over concepts, whose values are first averaged over seeds, with intervals for other draws of concepts.

    Returns:
        One row per ``family`` ("all" first), ``model`` and ``measure``: ``mean``, ``low``, ``high``, ``chance`` (NaN
        where there is no level of chance), and the number of ``concepts``.
    """
    numbers = [*MEASURES, *(chance for chance in MEASURES.values() if chance)]
    each = concepts.groupby(["model", "family", "concept"], sort=False)[numbers].mean().reset_index()
    rows = []
    for family in [ALL, *dict.fromkeys(each["family"])]:
        of_family = each if family == ALL else each[each["family"] == family]
        for model, part in of_family.groupby("model", sort=False):
            for measure, chance in MEASURES.items():
                one = {"family": family, "model": model, "measure": measure, **interval(part[measure], seed)}
                rows.append(one | {"chance": part[chance].mean() if chance else np.nan, "concepts": len(part)})
    return pd.DataFrame(rows)


def by_change(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over the pairs that change one kind of thing, of all seeds, with intervals for other draws of pairs.

    Returns:
        One row per ``change``, ``model`` and ``measure`` ("right" and "others"): ``mean``, ``low``, ``high``.
    """
    each = pairs.assign(number=pairs.groupby(["model", "seed"]).cumcount())
    each = each.groupby(["change", "model", "number"], sort=False)[["right", "others"]].mean().reset_index()
    return pd.DataFrame(
        {"change": change, "model": model, "measure": measure, **interval(part[measure], seed)}
        for (change, model), part in each.groupby(["change", "model"], sort=False)
        for measure in ("right", "others")
    )


def as_markdown(of_concepts: pd.DataFrame, of_changes: pd.DataFrame) -> str:
    """Both tables as they stand in the documentation: means, intervals in parentheses, chance after a slash."""
    tables = []
    for frame, keys, titles in (
        (of_concepts, ["family", "model"], TITLES),
        (of_changes, ["change", "model"], {"right": "switches rightly", "others": "other coalitions that switch"}),
    ):
        lines = []
        for key, part in frame.groupby(keys, sort=False):
            cells = {row.measure: _cell(row.mean, row.low, row.high, getattr(row, "chance", np.nan))
                     for row in part.itertuples()}  # fmt: skip
            lines.append({**dict(zip(keys, key)), **{title: cells[one] for one, title in titles.items()}})
        tables.append(markdown_table(pd.DataFrame(lines)))
    return "\n".join(tables)


def _cell(mean: float, low: float, high: float, chance: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" + ("" if np.isnan(chance) else f" / {chance:.3f}")
