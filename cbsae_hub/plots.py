"""The papers' figures, from neuron tables and scores: each function takes data and returns a matplotlib figure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cbsae_hub.metrics.quadrants import QUADRANTS, quadrants
from cbsae_hub.neurons.table import require_columns

# Okabe and Ito's colours, which all kinds of colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
VARIANT_PANELS = ("CD", "MS", "zero-shot", "unit vector", "white image", "explained variance")
MANY = 5000  # dots from which they are drawn smaller
HEAT = "viridis"
SMALLEST_SPAN = 0.05  # of an axis that shows variants, as a share of its largest value


def plot_quadrants(frame: pd.DataFrame, threshold: str | float = "mean") -> Figure:
    """Interpretability against steerability, with the four quadrants, their counts and shares."""
    found = quadrants(frame, threshold)
    figure, axes = _figure(6.4, 5.6)
    kinds = frame["kind"] if "kind" in frame else pd.Series("sae", index=frame.index)
    for i, (kind, marker, alpha) in enumerate((("sae", "o", 0.4), ("cb", "^", 0.9))):  # CB neurons are few
        part = frame[kinds == kind]
        if len(part):
            size = 4 if len(part) > MANY else 12 if kind == "sae" else 30
            axes.scatter(
                part["interpretability"], part["steerability"], s=size, alpha=alpha, marker=marker, color=COLOURS[i],
                linewidths=0, label=f"{kind.upper()} neurons", rasterized=True,
            )  # fmt: skip
    axes.axvline(found["thresholds"][0], color="black", linewidth=0.8, linestyle="--")
    axes.axhline(found["thresholds"][1], color="black", linewidth=0.8, linestyle="--")
    for i, name in enumerate(QUADRANTS):
        x, y = (0.98 if i % 2 else 0.02), (0.98 if i // 2 else 0.02)
        axes.text(
            x, y, f"{found['counts'][name]:,}\n{found['shares'][name]:.1%}", transform=axes.transAxes, weight="bold",
            ha="right" if i % 2 else "left", va="top" if i // 2 else "bottom",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
        )  # fmt: skip
    # Above and below the dots there is room for the counts: the best neurons are in the corner.
    axes.set(xlabel="interpretability", ylabel="steerability", xlim=(-0.02, 1.02), ylim=(-0.16, 1.16))
    axes.set_yticks(np.linspace(0, 1, 6))
    if kinds.nunique() > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    left_out = f", {found['left_out']:,} neurons without both scores left out" if found["left_out"] else ""
    axes.set_title(f"Interpretability and steerability{left_out}", fontsize=11)
    return figure


def plot_monosemanticity(scores: Mapping[str, pd.Series], population: float | None = None) -> Figure:
    """Sorted MonoSemanticity of the neurons of several models (Pach et al., figure 3).

    Args:
        scores: Name of a model to the scores of its neurons; NaN, undefined, is counted in the legend.
        population: Score of a neuron that tells nothing apart, drawn as a line.

    Raises:
        ValueError: If there are no models.
    """
    if not scores:
        raise ValueError("there are no models to compare")
    figure, axes = _figure(6.4, 4.4)
    for i, (name, values) in enumerate(scores.items()):
        known = np.sort(np.asarray(values, dtype=float)[~np.isnan(values)])[::-1]
        undefined = len(values) - len(known)
        label = f"{name} ({len(known):,} neurons" + (f", {undefined:,} undefined)" if undefined else ")")
        axes.plot(np.linspace(0, 1, len(known)), known, color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % 4],
                  label=label)  # fmt: skip
    if population is not None:
        axes.axhline(population, color="grey", linewidth=1, label=f"any two images ({population:.3f})")
    axes.set(xlabel="neurons, best first (share)", ylabel="MonoSemanticity", title="Sorted MonoSemanticity")
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_coverage(coverage: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """How many concepts of each set are some neuron's name: in all, and by what the name must be worth.

    Args:
        coverage: Name of a model to its ``coverage`` as in scores.json.

    Raises:
        ValueError: If there is nothing to draw.
    """
    sets = list(dict.fromkeys(name for found in coverage.values() for name in found))
    if not sets:
        raise ValueError("there is no coverage to draw")
    figure, (bars, lines) = _figure(10, 4.2, columns=2)
    width = 0.8 / len(coverage)
    for i, (model, found) in enumerate(coverage.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [sets.index(name) + (i - (len(coverage) - 1) / 2) * width for name in found]
        drawn = bars.bar(places, [part["share"] for part in found.values()], width * 0.95, label=model,
                         color=colour, hatch="" if i % 2 == 0 else "//", edgecolor="white")  # fmt: skip
        bars.bar_label(drawn, [f"{part['named']:,}\nof {part['concepts']:,}" for part in found.values()], fontsize=8)
        for j, (name, part) in enumerate(found.items()):
            curve, label = part["by_threshold"], f"{model}: {name}" if len(coverage) > 1 else name
            lines.plot(curve["thresholds"], curve["share"], color=colour, linestyle=DASHES[j % 4], label=label)
    bars.set(xticks=range(len(sets)), xticklabels=sets, ylabel="share of the concepts", ylim=(0, 1.18))
    bars.set_title("Concepts that are a neuron's name", fontsize=11)
    if len(coverage) > 1:
        bars.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    lines.set(xlabel="the name scores above this share of neurons with random images", ylim=(0, 1.02), xlim=(0, 1))
    lines.set_title("Coverage by what a name is worth", fontsize=11)
    lines.legend(frameon=False, fontsize=9)
    return figure


def plot_histograms(frame: pd.DataFrame, l0: Mapping[str, Any]) -> Figure:
    """How many latents are active on a token, and on how many tokens a neuron is.

    Args:
        frame: With the column ``token_density``.
        l0: ``l0`` of scores.json: ``histogram`` with ``edges`` and ``counts``.
    """
    density = _columns(frame, "token_density")["token_density"]
    figure, (left, right) = _figure(10, 4, columns=2)
    edges, counts = np.asarray(l0["histogram"]["edges"], float), np.asarray(l0["histogram"]["counts"], float)
    mean = (edges[:-1] * counts).sum() / counts.sum()
    left.stairs(counts / counts.sum(), edges - 0.5, fill=True, color=COLOURS[0])
    left.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.1f}")
    left.set(xlabel="active latents (L0)", ylabel="share of tokens", title="L0 of a token")
    left.legend(frameon=False)
    alive = density[density > 0]
    right.hist(np.log10(alive), bins=60, color=COLOURS[0])
    right.set(
        xlabel="log10 of the share of tokens on which it is active", ylabel="neurons", title="Density of a neuron"
    )
    right.text(0.98, 0.97, f"{len(density) - len(alive):,} of {len(density):,} are never active", ha="right", va="top",
               transform=right.transAxes)  # fmt: skip
    return figure


def plot_zero_shot_steering(tables: Mapping[str, pd.DataFrame], gamma: float = 0.1) -> Figure:
    """Share of the neurons that steer, against the strength ("Steering CLIP's vision transformer", section 6).

    Args:
        tables: Name of a set of images to what :func:`cbsae_hub.metrics.zero_shot_steering.summarise` says of it.
        gamma: The S_f that was asked for. Faintly drawn is what exceeds the loss of the answers by as much.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not tables:
        raise ValueError("there are no scores to draw")
    figure, panels = _figure(5 * len(tables), 4.2, columns=len(tables))
    for axes, (title, table) in zip(np.ravel(panels), tables.items()):
        strengths = table["strength"].unique()
        for i, (name, part) in enumerate(table.groupby("neurons_of", sort=False)):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % 4], "marker": "o", "markersize": 4}
            label = f"{name} ({part['neurons'].iloc[0]:,})"
            axes.plot(range(len(part)), part["share_above_gamma"], label=label, **look)
            axes.plot(range(len(part)), part["share_beyond_loss"], alpha=0.4, **look)
        ticks = ["\N{INFINITY}" if np.isinf(strength) else f"{strength:g}" for strength in strengths]
        axes.set(xticks=range(len(ticks)), xticklabels=ticks, xlabel="strength (not to scale)", ylim=(-0.02, 1.02))
        axes.set_ylabel(f"neurons with S_f > {gamma:g}; faint: beyond loss (share)")
        axes.set_title(title, fontsize=11)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def plot_variants(rows: pd.DataFrame, column: str, title: str, sae: Mapping[str, Any]) -> Figure:
    """What a setting of a concept bottleneck SAE changes, a panel for each measure (CB-SAE paper, figures 5 and 9).

    Args:
        rows: One model each: ``column``, and the measures, see :data:`VARIANT_PANELS`.
        column: Column of the setting.
        title: What it is called.
        sae: The measures of the SAE alone, drawn as lines.

    Raises:
        ValueError: If there are no models, or none of the measures.
    """
    panels = [name for name in VARIANT_PANELS if name in rows and rows[name].notna().any()]
    if rows.empty or not panels:
        raise ValueError("there is nothing to draw: no models, or no measures of them")
    rows = rows.sort_values(column)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _figure(3.2 * columns, 2.8 * lines, columns, lines)
    axes = np.ravel(axes)
    for spare in axes[len(panels) :]:
        spare.remove()
    for panel, name in zip(axes, panels):
        panel.plot(rows[column], rows[name], color=COLOURS[0], marker="o", label="CB-SAE")
        if not pd.isna(sae.get(name)):
            panel.axhline(sae[name], color="grey", linestyle="--", linewidth=1, label="SAE")
        low, high = panel.get_ylim()
        missing = max(0.0, SMALLEST_SPAN * abs(high) - (high - low)) / 2  # what hardly changes shall look like it
        panel.set(xlabel=title, ylim=(low - missing, high + missing))
        panel.set_title(name, fontsize=11)
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def plot_sheet(
    cells: Sequence[Sequence[tuple[Image.Image, str]]], rows: Sequence[str], columns: Sequence[str], caption: str
) -> Figure:
    """Pictures in a grid, with what was said beside each.

    Args:
        cells: Row by row, picture and text.
        rows: Titles of the rows.
        columns: Titles of the columns.
        caption: What is seen.
    """
    figure = Figure(figsize=(3.4 * len(columns), 1.15 * len(rows) + 0.8), layout="constrained", dpi=150)
    figure.suptitle(caption, fontsize=8.5, x=0.01, ha="left")
    grid = figure.subplots(len(rows), 2 * len(columns), squeeze=False, width_ratios=[1, 2] * len(columns))
    for i, (line, title) in enumerate(zip(cells, rows, strict=True)):
        for j, (picture, text) in enumerate(line):
            shown, said = grid[i, 2 * j], grid[i, 2 * j + 1]
            shown.imshow(picture)
            said.text(0, 0.5, textwrap.fill(text, 24, replace_whitespace=False), va="center", fontsize=8)
            for one in (shown, said):
                one.set(xticks=[], yticks=[])
                one.spines[:].set_visible(False)
            if i == 0:
                shown.set_title(columns[j], loc="left", fontsize=10)
        grid[i, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def plot_examples(strips: Sequence[Sequence[Any]], titles: Sequence[str]) -> Figure:
    """Neurons, a row each: images on which they are active, and beneath each where in it.

    Args:
        strips: Examples of each neuron, see :class:`cbsae_hub.neurons.pack.Example`.
        titles: What the rows are called.

    Raises:
        ValueError: If there is nothing to draw.
    """
    columns = max(map(len, strips), default=0)
    if not columns:
        raise ValueError("there are no examples to draw")
    figure = Figure(figsize=(columns + 1.6, 2.25 * len(strips)), dpi=150)
    # A neuron takes three rows, images, maps and a gap. All cells are square, so that nothing needs a layout engine.
    grid = figure.subplots(
        3 * len(strips), columns, squeeze=False, height_ratios=[1, 1, 0.2] * len(strips),
        gridspec_kw={"left": 1.6 / (columns + 1.6), "right": 1, "bottom": 0, "top": 1, "wspace": 0.04, "hspace": 0.04},
    )  # fmt: skip
    for one in grid.flat:
        one.set_axis_off()
    for i, (strip, title) in enumerate(zip(strips, titles, strict=True)):
        for j, example in enumerate(strip):
            grid[3 * i, j].imshow(example.image)
            if example.patch_map is not None:
                grid[3 * i + 1, j].imshow(example.patch_map, cmap=HEAT, vmin=0, vmax=1)
        grid[3 * i, 0].text(-0.08, 0, title, transform=grid[3 * i, 0].transAxes, ha="right", va="center", fontsize=10)
    return figure


def plot_patch_map(patch_map: Any, image: Image.Image | None = None) -> Figure:
    """Mean number of active latents at each patch, over a picture if one is given (ViT-Prisma's heat map).

    Args:
        patch_map: ``[rows, columns]``.
        image: What to draw it over.

    Raises:
        ValueError: If it is no map.
    """
    heat = np.asarray(patch_map, dtype=float)
    if heat.ndim != 2:
        raise ValueError(f"a map of patches has rows and columns, got {heat.shape}")
    figure, axes = _figure(5.4, 4.6)
    extent = (0, heat.shape[1], heat.shape[0], 0)
    if image is not None:
        axes.imshow(image, extent=extent)
    drawn = axes.imshow(heat, cmap=HEAT, extent=extent, alpha=1.0 if image is None else 0.55)
    figure.colorbar(drawn, label="active latents, mean")
    axes.set(title="L0 by place in the image", xlabel="column", ylabel="row")
    axes.grid(False)
    return figure


def _columns(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    require_columns(frame, names, "score the neurons again")
    return frame[list(names)]


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of its own, outside matplotlib's global state: safe in any thread, and freed with the last reference."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.5)
        one.set_axisbelow(True)
    return figure, axes
