"""Agreement of a score with people, who chose the neuron of a pair that looks more of one piece.

Source: the user study of Pach et al., 2025, and its published file ``pairs.csv``.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cbsae_hub.hub.files import read_text

BINS = 10


@dataclass
class Alignment:
    """Share of pairs of which a score and people chose the same neuron.

    Attributes:
        overall: Share of all pairs; NaN without pairs.
        bins: One row per tenth of the difference of scores: ``low, high, pairs, alignment`` (NaN: none).
    """

    overall: float
    bins: pd.DataFrame


def read_pairs(path: str | Path, judge: str) -> pd.DataFrame:
    """Reads the study's pairs.

    Args:
        path: CSV with columns ``k_x, k_y, R_user`` (the neuron that people chose) and ``MS_x_<judge>, MS_y_<judge>``.
        judge: "dino" or "clip" in the published file.

    Returns:
        The columns ``k_x, k_y, R_user, MS_x, MS_y``.

    Raises:
        OSError: If there is no such file.
        ValueError: If columns or values are missing, or people chose a neuron that is not of the pair; names the row.
    """
    frame = pd.read_csv(io.StringIO(read_text(path)))
    scores = {f"MS_x_{judge}": "MS_x", f"MS_y_{judge}": "MS_y"}
    columns = ["k_x", "k_y", "R_user", *scores]
    if missing := [column for column in columns if column not in frame.columns]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(frame.columns)}")
    frame = frame[columns].rename(columns=scores)
    incomplete = ~np.isfinite(frame.apply(pd.to_numeric, errors="coerce")).all(axis=1)
    if incomplete.any():
        raise ValueError(f"{path}: row {int(incomplete.idxmax()) + 1} has a value that is missing or no number")
    strange = (frame["R_user"] != frame["k_x"]) & (frame["R_user"] != frame["k_y"])
    if strange.any():
        raise ValueError(f"{path}: in row {int(strange.idxmax()) + 1} the choice is neither of the two neurons")
    return frame


def human_alignment(pairs: pd.DataFrame) -> Alignment:
    """Share of pairs in which people chose the neuron with the larger score, overall and by how far the scores differ.

    Of equal scores the second neuron counts as the score's choice, as in the published evaluation.

    Args:
        pairs: As :func:`read_pairs` returns them; to judge another score, put it in ``MS_x`` and ``MS_y``.
    """
    agreed = (pairs["MS_x"] > pairs["MS_y"]) == (pairs["R_user"] == pairs["k_x"])
    # Differences are of decimal fractions: without the small term 0.3 would fall below 0.3.
    tenth = np.minimum((pairs["MS_x"] - pairs["MS_y"]).abs() * BINS + 1e-9, BINS - 1).astype(int)
    bins = agreed.groupby(tenth).agg(["size", "mean"]).reindex(range(BINS))
    edges = np.linspace(0, 1, BINS + 1).round(10)
    counts = bins["size"].fillna(0).astype(int)
    table = {"low": edges[:-1], "high": edges[1:], "pairs": counts, "alignment": bins["mean"]}
    return Alignment(float(agreed.mean()), pd.DataFrame(table))
