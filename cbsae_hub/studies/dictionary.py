"""A dictionary without labels: is it found again from other seeds, and is it atomic?

Both beside SAEs that were never trained: rows in so few dimensions are alike by chance.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from cbsae_hub.metrics.dictionary import ALIKE, SAME, Stability, moved, redundancy, seed_stability
from cbsae_hub.models import SAE
from cbsae_hub.scoring.report import describe
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.trainers.sae.meta import meta_explained_variance

FIGURES = ("seed_cosine", "seed_share", "seed_subspace", "seed_moved")


def start_of(sae: SAE) -> SAE:
    """An SAE as it was before its training: the rows that its seed draws.

    Raises:
        ValueError: If its seed is not known, as that of somebody else's SAE.
    """
    if sae.seed is None:
        raise ValueError("the seed of the SAE is not known, and so is its start: give one that was trained here")
    return SAE(sae.d_in, sae.d_sae, "topk", sae.k, seed=sae.seed)


def seed_columns(sae: SAE, others: Sequence[SAE], threshold: float = SAME, alike: int = ALIKE) -> pd.DataFrame:
    """Columns ``seed_...`` of the neuron table, docs/neuron-table.md: one row per neuron.

    Args:
        sae: The SAE.
        others: SAEs that were trained alike from other seeds.
        threshold: See :func:`cbsae_hub.metrics.seed_stability`.
        alike: Likewise.

    Raises:
        ValueError: If two seeds are the same, or that of the SAE is not known; see also there.
    """
    if len({sae.seed, *(other.seed for other in others)}) <= len(others):
        raise ValueError("two of the SAEs have one seed: they start alike, and look stable for that")
    stable = seed_stability(sae.W_dec, [other.W_dec for other in others], threshold, alike)
    way = moved(sae.W_dec, start_of(sae).W_dec)
    return pd.DataFrame({"neuron": range(sae.d_sae), **_columns(stable), "seed_moved": way.numpy()})


def summary(columns: pd.DataFrame, sae: SAE, others: Sequence[SAE], threshold: float, alike: int) -> dict[str, Any]:
    """Figures of the whole dictionary, with those of the SAEs' starts as chance.

    Args:
        columns: See :func:`seed_columns`, as the others.
        sae: The SAE.
        others: SAEs from other seeds.
        threshold: See there.
        alike: See there.
    """
    start, *starts = (start_of(one).W_dec for one in (sae, *others))
    by_chance = _columns(seed_stability(start, starts, threshold, alike))
    return {
        "seeds": [one.seed for one in (sae, *others)],
        "threshold": threshold,
        "alike": alike,
        **_figures(columns, sae.W_dec),
        "chance": _figures(pd.DataFrame(by_chance), start),
    }


def _figures(columns: pd.DataFrame, rows: Tensor) -> dict[str, Any]:
    """Figures of the columns ``seed_...``, and of decoder rows."""
    return {
        **{name: describe(columns[name].tolist()) for name in FIGURES if name in columns},
        "redundancy": describe(redundancy(rows).tolist()),
        "meta_explained_variance": meta_explained_variance(rows),
    }


def as_markdown(figures: dict[str, Any]) -> str:
    """The figures as a table: means over neurons, beside chance."""
    lines = []
    for name, own in figures.items():
        if isinstance(own, (dict, float)) and name not in ("chance", "threshold"):
            both = (part["mean"] if isinstance(part, dict) else part for part in (own, figures["chance"].get(name)))
            cells = ("" if value is None else f"{value:.3f}" for value in both)
            lines.append({"measure": name.replace("_", " "), **dict(zip(("SAE", "untrained"), cells))})
    return markdown_table(pd.DataFrame(lines))


def _columns(stable: Stability) -> dict[str, Any]:
    return {f"seed_{name}": values.numpy() for name, values in stable._asdict().items()}
