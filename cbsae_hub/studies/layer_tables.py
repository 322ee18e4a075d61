"""Tables of the SAEs of every layer: means over seeds, with their spread."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cbsae_hub.studies.tables import markdown_table

MEASURES = {  # columns of the table: title, place in a measurement, factor, digits
    "L0, patch": ("l0_patch", 1, 1),
    "CLS": ("l0_cls", 1, 1),
    "image": ("l0_image", 1, 0),
    "explained variance": ("explained_variance", 1, 3),
    "cosine": ("cosine", 1, 3),
    "dead, %": ("dead_share", 100, 1),
    "cross-entropy": ("cross_entropy_original", 1, 3),
    "reconstructed": ("cross_entropy_reconstructed", 1, 3),
    "zeroed": ("cross_entropy_zeroed", 1, 3),
    "recovered, %": ("cross_entropy_recovered", 100, 1),
    "unscaled, %": ("unscaled_cross_entropy_recovered", 100, 1),
    "zero-shot, %": ("accuracy_original", 100, 1),
    "reconstructed, %": ("accuracy_reconstructed", 100, 1),
    "zeroed, %": ("accuracy_zeroed", 100, 1),
}
STEERING = {  # the same of the table of steering
    "S_f, mean": ("layer_s", 1, 3),
    "S_f > gamma, %": ("share_above_gamma", 100, 1),
    "beyond loss, %": ("share_beyond_loss", 100, 1),
    "words reached, %": ("concept_coverage", 100, 1),
}


def over_seeds(rows: pd.DataFrame, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Means and standard deviations over what differs in nothing but the seed.

    Args:
        rows: A row each.
        keys: Columns that tell apart what is averaged.
        values: Columns that are averaged.

    Returns:
        The keys, and of each of the values the mean and, ``NAME_sd``, the standard deviation (NaN of a single seed).
    """
    groups = rows.astype(dict.fromkeys(values, float)).groupby(list(keys), sort=False)[list(values)]
    return pd.concat([groups.mean(), groups.std(ddof=1).add_suffix("_sd")], axis=1).reset_index()


def table(rows: pd.DataFrame, columns: Mapping[str, tuple[str, float, int]], keys: Sequence[str]) -> str:
    """A Markdown table of :func:`over_seeds`, with the spread where there are several seeds."""
    frame = over_seeds(rows, keys, [place for place, _, _ in columns.values()])
    cells = frame[list(keys)].astype(str)
    for title, (name, factor, digits) in columns.items():
        means, spreads = factor * frame[name], factor * frame[f"{name}_sd"]
        cells[title] = [_cell(mean, spread, digits) for mean, spread in zip(means, spreads)]
    return markdown_table(cells)


def _cell(mean: float, spread: float, digits: int) -> str:
    if not np.isfinite(mean):
        return ""
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")


def as_markdown(measured: pd.DataFrame, steered: pd.DataFrame, gamma: float) -> str:
    """The tables as they stand in the documentation.

    Args:
        measured: A row per SAE: ``layer``, ``tokens``, ``kind``, ``seed``, and what :meth:`LayerProbe.measure` says.
        steered: A row per set of neurons, layer, strength and seed, see :class:`Steered`.
        gamma: The least S_f of a neuron that counts.
    """
    text = "**SAEs**\n\n" + table(measured, MEASURES, ("layer", "tokens", "kind"))
    if steered.empty:
        return text
    steps = steered.assign(strength=[f"{s:g}" if np.isfinite(s) else "asymptote" for s in steered["strength"]])
    titles = {title.replace("gamma", f"{gamma:g}"): place for title, place in STEERING.items()}
    return f"{text}\n**Steering**\n\n" + table(steps, titles, ("layer", "kind", "neurons", "strength"))
