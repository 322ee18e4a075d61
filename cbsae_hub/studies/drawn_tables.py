"""Tables and the figure of what features draw: table 3 of Olson et al. (2025) with tests and controls, and figure 5."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from cbsae_hub.studies.tables import markdown_table

IMAGES = ("original", "steered", "random")
TEXTS = ("prompt", "attribute", "other")
COMPARISONS = {
    "steered: attribute, not prompt alone": (("steered", "attribute"), ("steered", "prompt")),
    "attribute: steered, not original": (("steered", "attribute"), ("original", "attribute")),
    "attribute: steered, not random direction": (("steered", "attribute"), ("random", "attribute")),
    "steered: attribute, not another feature's": (("steered", "attribute"), ("steered", "other")),
}
"""What is compared, pair by pair; the first is the paper's."""


def means(pairs: pd.DataFrame) -> pd.DataFrame:
    """Table 3: the mean cosine of each kind of picture with each kind of text; pairs have a column for each."""
    rows = [{"image": image, **{text: pairs[f"{image}|{text}"].mean() for text in TEXTS}} for image in IMAGES]
    return pd.DataFrame(rows)


def paired_tests(pairs: pd.DataFrame) -> pd.DataFrame:
    """Paired t-tests of :data:`COMPARISONS` over pairs of a prompt and an attribute.

    Returns:
        A row per comparison: ``difference``, its 95 % interval ``low`` and ``high``, ``t``, ``p``, and ``n`` pairs.
    """
    rows = []
    for name, (first, second) in COMPARISONS.items():
        a, b = (pairs["|".join(one)].to_numpy() for one in (first, second))
        test = stats.ttest_rel(a, b)
        low, high = test.confidence_interval()
        rows.append({"comparison": name, "difference": float(np.mean(a - b)), "low": float(low), "high": float(high),
                     "t": float(test.statistic), "p": float(test.pvalue), "n": len(a)})  # fmt: skip
    return pd.DataFrame(rows)


def as_markdown(pairs: pd.DataFrame) -> str:
    """Both tables as they stand in the documentation."""
    table = means(pairs).round(3).rename(columns={"attribute": "with attribute", "other": "with another's attribute"})
    lines = [
        {"comparison": row.comparison, "difference": f"{row.difference:.3f} ({row.low:.3f} to {row.high:.3f})",
         "p": "< 0.0001" if row.p < 1e-4 else f"{row.p:.4f}", "pairs": row.n}
        for row in paired_tests(pairs).itertuples()
    ]  # fmt: skip
    return f"{markdown_table(table)}\n{markdown_table(pd.DataFrame(lines))}"


def plot_drawings(drawn: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str]) -> Figure:
    """Olson et al.'s figure 5: a row per prompt, and for each title a column of its drawings."""
    figure = Figure(figsize=(1.3 * len(drawn) + 1, 1.3 * len(prompts) + 0.4), layout="constrained")
    panels = np.atleast_2d(figure.subplots(len(prompts), len(drawn), squeeze=False))
    for column, (title, pictures) in enumerate(drawn.items()):
        for row, picture in enumerate(pictures):
            axes = panels[row, column]
            axes.imshow(np.asarray(picture))
            axes.set(xticks=[], yticks=[])
        panels[0, column].set_title(textwrap.fill(title, 16), fontsize=9)
    for row, prompt in enumerate(prompts):
        panels[row, 0].set_ylabel(textwrap.fill(prompt, 18), fontsize=8)
    return figure
