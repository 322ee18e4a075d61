"""The papers' figures, of neuron tables and scores: each function takes data and returns a matplotlib figure."""

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
TITLE, LEGEND = {"fontsize": 11}, {"fontsize": 9, "frameon": False}
VARIANT_PANELS = ("CD", "MS", "zero-shot", "unit vector", "white image", "explained variance")
MANY = 5000  # dots from which they are drawn smaller
HEAT = "viridis"
SMALLEST_SPAN = 0.05  # of an axis that shows variants, as a share of its largest value


def plot_quadrants(frame: pd.DataFrame, threshold: str | float | tuple[str | float, str | float] = "mean") -> Figure:
    """Interpretability against steerability, with the four quadrants, their counts and shares."""
    parts = quadrants(frame, threshold)
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
    axes.axvline(parts["thresholds"][0], color="black", linewidth=0.8, linestyle="--")
    axes.axhline(parts["thresholds"][1], color="black", linewidth=0.8, linestyle="--")
    for i, name in enumerate(QUADRANTS):
        x, y = (0.98 if i % 2 else 0.02), (0.98 if i // 2 else 0.02)
        axes.text(
            x, y, f"{parts['counts'][name]:,}\n{parts['shares'][name]:.1%}", transform=axes.transAxes, weight="bold",
            ha="right" if i % 2 else "left", va="top" if i // 2 else "bottom",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
        )  # fmt: skip
    # Above and below the dots there is room for the counts: the best neurons are in the corner.
    axes.set(xlabel="interpretability", ylabel="steerability", xlim=(-0.02, 1.02), ylim=(-0.16, 1.16))
    axes.set_yticks(np.linspace(0, 1, 6))
    if kinds.nunique() > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, **LEGEND)
    left_out = f", {parts['left_out']:,} neurons without both scores left out" if parts["left_out"] else ""
    axes.set_title(f"Interpretability and steerability{left_out}", **TITLE)
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
        defined = np.sort(np.asarray(values, dtype=float)[~np.isnan(values)])[::-1]
        undefined = len(values) - len(defined)
        label = f"{name} ({len(defined):,} neurons" + (f", {undefined:,} undefined)" if undefined else ")")
        axes.plot(np.linspace(0, 1, len(defined)), defined, label=label, **_line(i))
    if population is not None:
        axes.axhline(population, color="grey", linewidth=1, label=f"any two images ({population:.3f})")
    axes.set(xlabel="neurons, best first (share)", ylabel="MonoSemanticity")
    axes.set_title("Sorted MonoSemanticity", **TITLE)
    axes.legend(**LEGEND)
    return figure


def plot_coverage(coverage: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """The number of concepts of each set that are some neuron's name: in all, and by the least score of the name.

    ``coverage`` maps the name of a model to its ``coverage`` as in scores.json.

    Raises:
        ValueError: If there is nothing to draw.
    """
    sets = list(dict.fromkeys(name for of_model in coverage.values() for name in of_model))
    if not sets:
        raise ValueError("there is no coverage to draw")
    figure, (bars, lines) = _figure(10, 4.2, columns=2)
    width = 0.8 / len(coverage)
    for i, (model, of_model) in enumerate(coverage.items()):
        colour, parts = COLOURS[i % len(COLOURS)], list(of_model.values())
        places = [sets.index(name) + (i - (len(coverage) - 1) / 2) * width for name in of_model]
        columns = bars.bar(places, [part["share"] for part in parts], width * 0.95, label=model,
                           color=colour, hatch="" if i % 2 == 0 else "//", edgecolor="white")  # fmt: skip
        bars.bar_label(columns, [f"{part['named']:,}\nof {part['concepts']:,}" for part in parts], fontsize=8)
        for j, (name, part) in enumerate(of_model.items()):
            curve, label = part["by_threshold"], f"{model}: {name}" if len(coverage) > 1 else name
            lines.plot(curve["thresholds"], curve["share"], color=colour, linestyle=DASHES[j % 4], label=label)
    bars.set(xticks=range(len(sets)), xticklabels=sets, ylabel="share of the concepts", ylim=(0, 1.18))
    bars.set_title("Concepts that are a neuron's name", **TITLE)
    if len(coverage) > 1:
        bars.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    lines.set(xlabel="the name scores above this share of neurons with random images", ylim=(0, 1.02), xlim=(0, 1))
    lines.set_title("Coverage by what a name is worth", **TITLE)
    lines.legend(**LEGEND)
    return figure


def plot_histograms(frame: pd.DataFrame, l0: Mapping[str, Any]) -> Figure:
    """The number of latents that are active on a token (``l0`` of scores.json), and of tokens on which a neuron is."""
    require_columns(frame, ["token_density"], "score the neurons again")
    density = frame["token_density"]
    figure, (by_token, by_neuron) = _figure(10, 4, columns=2)
    edges, counts = np.asarray(l0["histogram"]["edges"], float), np.asarray(l0["histogram"]["counts"], float)
    mean = (edges[:-1] * counts).sum() / counts.sum()
    by_token.stairs(counts / counts.sum(), edges - 0.5, fill=True, color=COLOURS[0])
    by_token.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.1f}")
    by_token.set(xlabel="active latents (L0)", ylabel="share of tokens")
    by_token.set_title("L0 of a token", **TITLE)
    by_token.legend(**LEGEND)
    alive = density[density > 0]
    by_neuron.hist(np.log10(alive), bins=60, color=COLOURS[0])
    by_neuron.set(xlabel="log10 of the share of tokens on which it is active", ylabel="neurons")
    by_neuron.set_title("Density of a neuron", **TITLE)
    never = f"{len(density) - len(alive):,} of {len(density):,} are never active"
    by_neuron.text(0.98, 0.97, never, ha="right", va="top", transform=by_neuron.transAxes)
    return figure


def plot_zero_shot_steering(tables: Mapping[str, pd.DataFrame], gamma: float = 0.1) -> Figure:
    """Share of the neurons that steer, against the strength ("Steering CLIP's vision transformer", section 6).

    Args:
        tables: Name of a set of images to its table by :func:`cbsae_hub.metrics.zero_shot_steering.summarise`.
        gamma: Least S_f of a neuron that counts. The faint line counts those that exceed the answers' loss by as much.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not tables:
        raise ValueError("there are no scores to draw")
    figure, panels = _figure(5 * len(tables), 4.2, columns=len(tables))
    for axes, (title, table) in zip(np.ravel(panels), tables.items()):
        strengths = table["strength"].unique()
        for i, (name, part) in enumerate(table.groupby("neurons_of", sort=False)):
            look = {**_line(i), "marker": "o", "markersize": 4}
            label = f"{name} ({part['neurons'].iloc[0]:,})"
            axes.plot(range(len(part)), part["share_above_gamma"], label=label, **look)
            axes.plot(range(len(part)), part["share_beyond_loss"], alpha=0.4, **look)
        ticks = ["\N{INFINITY}" if np.isinf(strength) else f"{strength:g}" for strength in strengths]
        axes.set(xticks=range(len(ticks)), xticklabels=ticks, xlabel="strength (not to scale)", ylim=(-0.02, 1.02))
        axes.set_ylabel(f"neurons with S_f > {gamma:g}; faint: beyond loss (share)")
        axes.set_title(title, **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, **LEGEND)
    return figure


def plot_sanity(table: pd.DataFrame, pass_from: float) -> Figure:
    """Share of neurons whose score falls when labels are wrong, a panel for each kind of neurons.

    Args:
        table: Rows of :func:`cbsae_hub.studies.sanity.run_tests`, with the column ``neurons``, the kind.
        pass_from: Share from which a score passes, drawn as a line.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if table.empty:
        raise ValueError("there are no tests to draw")
    kinds, scores = table["neurons"].unique(), table["score"].unique()
    figure, panels = _figure(3 + 3.4 * len(kinds), 0.9 + 0.32 * len(scores), columns=len(kinds))
    for axes, kind in zip(np.ravel(panels), kinds):
        for i, (test, part) in enumerate(table[table["neurons"] == kind].groupby("test", sort=False)):
            places = [list(scores).index(score) + 0.4 * i - 0.2 for score in part["score"]]
            errors = [part["falls"] - part["low"], part["high"] - part["falls"]]
            axes.barh(places, part["falls"], 0.38, xerr=errors, color=COLOURS[i], label=f"labels: {test}",
                      error_kw={"linewidth": 1})  # fmt: skip
        axes.axvline(pass_from, color="black", linestyle="--", linewidth=0.8)
        axes.set(xlim=(0, 1.02), xlabel="neurons whose score falls (share)", yticks=range(len(scores)))
        axes.set_yticklabels([score.replace("`", "") for score in scores] if kind == kinds[0] else [])
        axes.invert_yaxis()
        axes.set_title(kind, **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, **LEGEND)
    return figure


def plot_names(table: pd.DataFrame) -> Figure:
    """Explanations of the same neurons side by side: share right, correlation and detection, with their intervals.

    Args:
        table: Rows of :func:`cbsae_hub.studies.names.summary`: ``method``, ``measure``, ``mean``, ``low``, ``high``.

    Raises:
        ValueError: If there is nothing to draw.
    """
    table = table.dropna(subset="mean")
    if table.empty:
        raise ValueError("there are no explanations to draw")
    methods, measures = table["method"].unique(), table["measure"].unique()
    figure, panels = _figure(3 + 2.4 * len(measures), 0.9 + 0.3 * len(methods), columns=len(measures))
    for axes, measure in zip(np.ravel(panels), measures):
        part = table[table["measure"] == measure]
        errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
        places = [list(methods).index(method) for method in part["method"]]
        axes.errorbar(part["mean"], places, xerr=errors, fmt="o", color=COLOURS[0], capsize=3)
        axes.set(yticks=range(len(methods)), ylim=(len(methods) - 0.5, -0.5))
        axes.set_yticklabels(methods if measure == measures[0] else [])
        axes.grid(axis="y", linewidth=0.4)
        axes.set_title(measure, **TITLE)
    return figure


def plot_suppression(sweep: pd.DataFrame, baseline: float) -> Figure:
    """Accuracy of the worst group against tau, a panel per layer ("Steering CLIP's vision transformer", section 7.1).

    Args:
        sweep: One row per ``layer``, ``method``, ``seed`` and ``tau``, with ``worst``, 0..1; bands are from the lowest
            to the highest seed. Methods without tau are drawn as dotted lines.
        baseline: The worst group's accuracy without suppression, a line.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if sweep.empty:
        raise ValueError("there is no suppression to draw")
    layers = sorted(sweep["layer"].unique())
    columns = min(3, len(layers))
    figure, panels = _figure(4.2 * columns, 3 * -(-len(layers) // columns) + 0.6, columns, -(-len(layers) // columns))
    panels = np.ravel(panels)
    for spare in panels[len(layers) :]:
        spare.remove()
    for axes, layer in zip(panels, layers):
        axes.axhline(baseline, color="grey", linewidth=1, label="none")
        for i, (name, part) in enumerate(sweep[sweep["layer"] == layer].groupby("method", sort=False)):
            if part["tau"].isna().all():
                axes.axhline(part["worst"].mean(), color=COLOURS[i % len(COLOURS)], linestyle=":", label=name)
                continue
            curve = part.groupby("tau")["worst"].agg(["mean", "min", "max"])
            axes.plot(curve.index, curve["mean"], label=name, **_line(i))
            axes.fill_between(curve.index, curve["min"], curve["max"], color=COLOURS[i % len(COLOURS)], alpha=0.15)
        axes.set(xscale="log", xlabel="tau", ylabel="worst group (validation)", ylim=(-0.02, 1.02))
        axes.set_title(f"layer {layer}", **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, **LEGEND)
    return figure


def plot_typographic_sweep(sweep: pd.DataFrame, prefix: Mapping[str, float]) -> Figure:
    """Accuracy on attacked and on clean pictures against tau, means over seeds; a line for each lambda.

    Args:
        sweep: ``sweep`` of :meth:`cbsae_hub.studies.typographic.TypographicStudy.run`, of all seeds: columns
            ``neurons_of``, ``tau``, ``lambda``, ``attacked`` and ``clean``; without a tau, no neurons are set to zero.
        prefix: ``attacked`` and ``clean`` of the Defense-Prefix on the same pictures.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not sweep["tau"].notna().any():
        raise ValueError("there are no values of tau to draw")
    none = sweep[sweep["tau"].isna()]
    # Raw neurons are at right angles to each other: every lambda gives them the same set.
    lambdas = sorted(sweep["lambda"].dropna().unique())
    kinds = [("SAE", closeness) for closeness in lambdas] + [("raw neurons", lambdas[-1])]
    figure, panels = _figure(10, 4.4, columns=2)
    for axes, column in zip(panels, ("attacked", "clean")):
        for i, (name, closeness) in enumerate(kinds):
            rows = sweep[(sweep["neurons_of"] == name) & (sweep["lambda"] == closeness)]
            means = rows.groupby("tau")[column].mean()
            label = name if name == "raw neurons" else f"{name}, λ = {closeness:g}"
            axes.plot(means.index, means.to_numpy(), label=label, marker="o", markersize=4, **_line(i))
        axes.axhline(none[column].mean(), color="grey", linestyle="--", linewidth=1, label="no defence")
        axes.axhline(prefix[column], color="black", linestyle=":", linewidth=1, label="Defense-Prefix")
        axes.set(xscale="log", xlabel="τ", ylabel="right answers (%)")
        axes.set_title(f"{column} pictures", **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, **LEGEND)
    return figure


def plot_variants(rows: pd.DataFrame, column: str, title: str, sae: Mapping[str, Any]) -> Figure:
    """The effect of a setting of a concept bottleneck SAE, a panel for each measure (CB-SAE paper, figures 5 and 9).

    Args:
        rows: One model each: ``column``, and the measures, see :data:`VARIANT_PANELS`.
        column: Column of the setting.
        title: Name of the setting.
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
        panel.set_title(name, **TITLE)
    axes[0].legend(**LEGEND)
    return figure


def plot_intervals(frame: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Means of several models with their intervals, a panel for each measure; a cross is the level of chance.

    Args:
        frame: One row per ``model`` and ``measure`` with ``mean``, ``low``, ``high`` and ``chance`` (NaN: none).
        titles: Names of the measures that are drawn, and their titles.

    Raises:
        ValueError: If the table has none of the measures.
    """
    panels = [name for name in titles if name in set(frame["measure"])]
    if not panels:
        raise ValueError("there is nothing to draw: the table has none of these measures")
    models = list(dict.fromkeys(frame["model"]))
    figure, columns = _figure(2.6 * len(panels) + 1.2, 0.36 * len(models) + 1.3, columns=len(panels))
    for axes, name in zip(np.ravel(columns), panels):
        part = frame[frame["measure"] == name].set_index("model").reindex(models)
        places = np.arange(len(models))
        errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axes.errorbar(part["mean"], places, xerr=errors, fmt="o", color=COLOURS[0], markersize=4, capsize=2)
        axes.plot(part["chance"], places, "x", color=COLOURS[1], label="chance")
        axes.set(yticks=places, yticklabels=models if name == panels[0] else [], ylim=(len(models) - 0.5, -0.5))
        axes.set_title(titles[name], **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", **LEGEND)
    return figure


def plot_sheet(
    cells: Sequence[Sequence[tuple[Image.Image | None, str]]], rows: Sequence[str], columns: Sequence[str], caption: str
) -> Figure:
    """Images in a grid with titles of its rows and columns, each with a text beside it, and a caption above all.

    A cell without an image stays empty.
    """
    figure = Figure(figsize=(3.4 * len(columns), 1.15 * len(rows) + 0.8), layout="constrained", dpi=150)
    figure.suptitle(caption, fontsize=8.5, x=0.01, ha="left")
    grid = figure.subplots(len(rows), 2 * len(columns), squeeze=False, width_ratios=[1, 2] * len(columns))
    for i, (line, title) in enumerate(zip(cells, rows, strict=True)):
        for j, (image, text) in enumerate(line):
            image_axes, text_axes = grid[i, 2 * j], grid[i, 2 * j + 1]
            if image is not None:
                image_axes.imshow(image)
            text_axes.text(0, 0.5, textwrap.fill(text, 24, replace_whitespace=False), va="center", fontsize=8)
            for one in (image_axes, text_axes):
                one.set(xticks=[], yticks=[])
                one.spines[:].set_visible(False)
            if i == 0:
                image_axes.set_title(columns[j], loc="left", fontsize=10)
        grid[i, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def plot_examples(strips: Sequence[Sequence[Any]], titles: Sequence[str]) -> Figure:
    """Neurons, a row each: images on which they are active, and beneath each where in it.

    Args:
        strips: Examples of each neuron, see :class:`cbsae_hub.neurons.pack.Example`.
        titles: Names of the rows.

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
    """Mean active latents at each patch ``[rows, columns]``, over an image if there is one (ViT-Prisma's heat map).

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
    layer = axes.imshow(heat, cmap=HEAT, extent=extent, alpha=1.0 if image is None else 0.55)
    figure.colorbar(layer, label="active latents, mean")
    axes.set(xlabel="column", ylabel="row")
    axes.set_title("L0 by place in the image", **TITLE)
    axes.grid(False)
    return figure


def plot_densities(layers: Sequence[tuple[int, pd.DataFrame]]) -> Figure:
    """Height and coverage of features, a panel for each layer, darker where there are more (Olson et al., figure 3).

    Args:
        layers: Block and its features with ``height`` and ``coverage``.

    Raises:
        ValueError: If there are no layers.
    """
    if not layers:
        raise ValueError("there are no layers to draw")
    figure, panels = _figure(3.4 * len(layers), 3.4, columns=len(layers))
    top = max(1.0, *(part["height"].max() for _, part in layers if len(part)), 1.0)
    edges = np.linspace(-0.05 * top, 1.05 * top, 23), np.linspace(0, 1.05, 22)
    for axes, (layer, part) in zip(np.ravel(panels), layers):
        height, coverage = part["height"].to_numpy(float), part["coverage"].to_numpy(float)
        counts, *_ = np.histogram2d(height, coverage, bins=edges)
        axes.pcolormesh(*edges, np.ma.masked_equal(np.log10(np.maximum(counts, 1)) + (counts > 0), 0).T, cmap="Blues")
        axes.set(xlabel="height", ylabel="coverage")
        axes.set_title(f"layer {layer}: {len(part):,} features", **TITLE)
    return figure


def plot_lines(frame: pd.DataFrame, x: str, panels: Mapping[str, str], label: str, log: bool = False) -> Figure:
    """Several measures against one setting, a panel for each.

    Args:
        frame: One row per dot; the column ``line`` says of which line it is.
        x: Column of the setting.
        panels: Column of a measure to its title.
        label: Name of the setting.
        log: Whether the setting's axis is logarithmic.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if frame.empty or not panels:
        raise ValueError("there is nothing to draw: no rows, or no measures")
    figure, columns = _figure(3.4 * len(panels), 3.6, columns=len(panels))
    for axes, (column, title) in zip(np.ravel(columns), panels.items()):
        for i, (name, part) in enumerate(frame.groupby("line", sort=False)):
            axes.plot(part[x], part[column], label=name, marker="o", markersize=3, **_line(i))
        axes.set(xlabel=label, xscale="log" if log else "linear")
        axes.set_title(title, **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, **LEGEND)
    return figure


def _line(number: int) -> dict[str, str]:
    """Colour and dashes of one of several lines."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    """A figure of its own, outside matplotlib's global state: safe in any thread, and freed with the last reference."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns)
    for one in np.ravel(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.5)
        one.set_axisbelow(True)
    return figure, axes
