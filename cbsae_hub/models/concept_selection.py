"""Which of the user's concepts a bottleneck has to add: those that no retained neuron stands for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

IN_SAE, IN_BOTTLENECK, DROPPED = "sae", "bottleneck", "dropped"


def select_concepts(
    wanted: Sequence[str], frame: pd.DataFrame, keep: Sequence[int], min_percentile: float = 0.0
) -> tuple[list[str], pd.DataFrame]:
    """The concepts of a bottleneck: what is wanted, minus the names of retained neurons (CB-SAE paper, section 5.2).

    Args:
        wanted: The user's concepts; white space around them does not count, nor does case in comparisons.
        frame: The neuron table of the whole SAE, dissected with these concepts, if they are to be found there.
        keep: Ids of the retained neurons.
        min_percentile: Only names with at least this ``null_percentile`` count: 0.95 leaves out neurons that are named
            no better than ones with random images. 0 is the paper's rule.

    Returns:
        The concepts of the bottleneck in the order in which they were given, and a report: one row per wanted concept,
        ``concept``, ``where`` ("sae", "bottleneck", "dropped"), ``neuron``, ``score`` and ``null_percentile`` of the
        best neuron of that name, and ``why`` it was dropped.
    """
    named = frame[frame["neuron"].isin(list(keep)) & frame["name"].notna()]
    named = named[named["null_percentile"] >= min_percentile].sort_values("score", ascending=False, kind="stable")
    best = {}
    for row in named[["name", "neuron", "score", "null_percentile"]].itertuples(index=False):
        best.setdefault(_key(row.name), row)
    chosen, rows, seen = [], [], set()
    for concept in wanted:
        name, key = concept.strip(), _key(concept)
        found = best.get(key)
        row = {"concept": name, "where": IN_BOTTLENECK, "neuron": -1, "score": np.nan, "null_percentile": np.nan}
        row["why"] = ""
        if not name or key in seen:
            row |= {"where": DROPPED, "why": "wanted twice" if name else "empty"}
        elif found is not None:
            row |= {"where": IN_SAE, "neuron": found.neuron, "score": found.score}
            row["null_percentile"] = found.null_percentile
        else:
            chosen.append(name)
        seen.add(key)
        rows.append(row)
    return chosen, pd.DataFrame(rows, columns=["concept", "where", "neuron", "score", "null_percentile", "why"])


def _key(name: str) -> str:
    return " ".join(name.lower().split())
