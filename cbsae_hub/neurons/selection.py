"""Selection of the concepts of a bottleneck: those for which no retained neuron stands."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cbsae_hub.models.checks import neuron_ids
from cbsae_hub.neurons.table import require_columns
from cbsae_hub.words import clean_name, name_key, some

COLUMNS = ("concept", "where", "neuron", "score", "null_percentile", "why")


def select_concepts(
    concepts: Iterable[str],
    neurons: pd.DataFrame,
    keep: Iterable[int],
    min_percentile: float = 0.0,
    force: bool = False,
) -> tuple[list[str], pd.DataFrame]:
    """The concepts of a bottleneck: the user's, minus the names of retained neurons (CB-SAE paper, section 5.2).

    Args:
        concepts: The user's concepts; case and white space do not count in comparisons.
        neurons: The rows of the whole SAE's neuron table, named with these concepts, if they are to be found there. A
            neuron's name is the best one it has.
        keep: Ids of the retained neurons.
        min_percentile: Only names with at least this ``null_percentile`` count: 0.95 leaves out neurons that are named
            no better than ones with random images. 0 is the paper's rule: every name counts.
        force: Take those too that are names already.

    Returns:
        The concepts of the bottleneck in the order in which they were given, and a report: one row per concept
        with ``where`` it is ("sae", "bottleneck", "dropped"); of the best retained neuron of that name ``neuron`` (-1
        for none), ``score`` and ``null_percentile``; and ``why`` it was dropped ("empty", "duplicate").

    Raises:
        ValueError: If the table lacks a column or a retained neuron, or a concept is no text.
    """
    if isinstance(concepts, str):
        raise ValueError(f"concepts must be a list, got {concepts!r:.80}")
    owners = _owners(neurons, keep, min_percentile)
    selected: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    keys: set[str] = set()
    for concept in concepts:
        if not isinstance(concept, str):
            raise ValueError(f"concepts must be strings, got {concept!r:.80}")
        name, key = clean_name(concept), name_key(concept)
        row = {"concept": name, "where": "bottleneck", "neuron": -1, "score": np.nan, "null_percentile": np.nan}
        if not name or key in keys:
            row |= {"where": "dropped", "why": "duplicate" if name else "empty"}
        elif key in owners and not force:
            row |= {"where": "sae"} | owners[key]
        else:
            selected[key] = name
            row |= owners.get(key, {})
        keys.add(key)
        rows.append({"why": "", **row})
    return list(selected.values()), pd.DataFrame(rows, columns=list(COLUMNS))


def require_concepts(report: pd.DataFrame) -> None:
    """Refuses a selection of no concept.

    Args:
        report: That of :func:`select_concepts`.

    Raises:
        ValueError: If there is none; names the neurons that have the concepts.
    """
    if (report["where"] == "bottleneck").any():
        return
    present = report[report["where"] == "sae"]
    if present.empty:
        raise ValueError("there is no concept: the list is empty")
    neurons = [f"{row.concept} (neuron {row.neuron}, score {row.score:.2f})" for row in present.itertuples()]
    raise ValueError(
        f"nothing to train: retained neurons are named after all of the concepts: {some(neurons, 20)}. With force "
        "(--set force=true) they get neurons nevertheless; with min_percentile 0.95, those whose names may be chance"
    )


def _owners(frame: pd.DataFrame, keep: Iterable[int], min_percentile: float) -> dict[str, dict[str, Any]]:
    """The best retained neuron of each name; of equal ones, the first."""
    columns = ["name", "neuron", "score", "null_percentile"]
    require_columns(frame, columns, "score the neurons first")
    ids = neuron_ids("keep", keep, 2**62)
    if unknown := sorted(set(ids) - set(frame["neuron"])):
        raise ValueError(f"keep has neuron {unknown[0]}, which is not in the neuron table: that of another SAE?")
    rows = frame.loc[frame["neuron"].isin(ids) & frame["name"].notna(), columns]
    rows = rows[rows["null_percentile"].fillna(0) >= min_percentile]
    rows = rows.sort_values("neuron").sort_values("score", ascending=False, kind="stable")
    owners: dict[str, dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        owners.setdefault(name_key(row.pop("name")), row)
    return owners
