"""Figures of the SAEs of every layer: figures 4 to 8 of "Steering CLIP's vision transformer" (Joseph et al., 2025)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cbsae_hub.plots import COLOURS, HEAT, LEGEND, TITLE, _figure, _line
from cbsae_hub.studies.layers import BOX

PANELS = 6  # in a row
LOWEST = 1e-4  # share of neurons at which a histogram on a logarithmic scale begins


def plot_l0_maps(maps: Mapping[int, Any]) -> Figure:
    """Active latents at each place in the image, a panel for each layer (figures 4a and 8).

    Args:
        maps: Layer to means over images ``[rows, columns]``; each panel has its own scale.

    Raises:
        ValueError: If there are no maps; so do all figures of this module without their data.
    """
    figure, panels = _panels(maps, 2.4, 2.3, "maps")
    for axes, (layer, heat) in zip(panels, maps.items()):
        image = axes.imshow(np.asarray(heat, float), cmap=HEAT)
        figure.colorbar(image, ax=axes, shrink=0.75)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.set_title(f"layer {layer}", **TITLE)
    figure.suptitle("Active latents by place in the image (mean over images)", fontsize=11)
    return figure


def plot_l0_boxes(boxes: Mapping[int, tuple[Any, int]]) -> Figure:
    """Active latents of each patch as boxes, and of CLS apart, a panel for each layer (figure 4b).

    Args:
        boxes: Layer to ``l0_by_token`` and ``prefix`` of :meth:`cbsae_hub.studies.layers.LayerProbe.measure`.
    """
    _require(boxes, "boxes")
    figure, panels = _figure(10, 1.9 * len(boxes), rows=len(boxes))
    for axes, (layer, (quantiles, prefix)) in zip(np.ravel(panels), boxes.items()):
        values = np.asarray(quantiles, float)
        # CLS stands to the left of the patches; registers are left out.
        places = [*([-2] if prefix else []), *range(len(values) - prefix)]
        rows = np.concatenate([values[: min(1, prefix)], values[prefix:]])
        names = ("whislo", "q1", "med", "q3", "whishi")
        drawn = axes.bxp(
            [dict(zip(names, row)) for row in rows], places, widths=0.7, showfliers=False, patch_artist=True,
            manage_ticks=False, medianprops={"color": "black"},
        )  # fmt: skip
        for box, place in zip(drawn["boxes"], places):
            box.set_facecolor(COLOURS[1] if place < 0 else COLOURS[5])
        axes.set_xticks(places[:1] if prefix else [], ["CLS"] if prefix else [])
        axes.set(ylabel="active latents")
        axes.set_title(f"layer {layer}", **TITLE)
    axes.set_xlabel(f"patches, row by row; boxes: quartiles, whiskers: {BOX[0]:.0%} and {BOX[-1]:.0%} of the images")
    return figure


def plot_l0_by_layer(rows: pd.DataFrame) -> Figure:
    """Active latents of a patch and of CLS against the layer (figure 4c).

    Args:
        rows: Of :func:`cbsae_hub.studies.layer_tables.over_seeds`: ``layer``, ``tokens``, ``kind``, ``l0_patch`` and
            ``l0_cls`` with their spreads.
    """
    _require(rows, "SAEs")
    figure, panels = _figure(10, 4.2, columns=2)
    for axes, name, title in zip(panels, ("l0_patch", "l0_cls"), ("patches", "CLS")):
        for i, ((kind, tokens), part) in enumerate(rows.groupby(["kind", "tokens"], sort=False)):
            measured = part[part[name].notna()].sort_values("layer")
            if len(measured):
                _with_spread(axes, measured, name, label=f"{kind}, SAE of {tokens}", look=_line(i))
        axes.set(xlabel="layer", ylabel="active latents (mean)")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=0)
        axes.set_title(f"L0 of {title}", **TITLE)
        axes.legend(**LEGEND)
    return figure


def plot_s_f(neurons: pd.DataFrame, gamma: float, loss: float) -> Figure:
    """Histogram of S_f on a logarithmic scale, a panel for each layer (figure 6).

    Args:
        neurons: ``layer``, ``kind`` and ``s_f``, a row per neuron.
        gamma: The least S_f of a neuron that counts, drawn as a line.
        loss: S_f of answers that only become uniform; the dotted line is as far beyond it.
    """
    _require(neurons, "neurons")
    layers, kinds = dict(list(neurons.groupby("layer"))), list(neurons["kind"].unique())
    figure, panels = _panels(layers, 3.0, 2.8, "neurons")
    edges = np.linspace(0, max(1.0, float(neurons["s_f"].max())), 41)
    for axes, (layer, part) in zip(panels, layers.items()):
        for kind, of_kind in part.groupby("kind", sort=False):
            counts, _ = np.histogram(of_kind["s_f"], edges)
            axes.stairs(counts / len(of_kind), edges, label=kind, **_line(kinds.index(kind)))
        for least, dashes in ((gamma, "-"), (loss + gamma, ":")):
            axes.axvline(least, color="grey", linewidth=0.8, linestyle=dashes)
        axes.set(xlabel="S_f", ylabel="share of neurons", yscale="log", ylim=(LOWEST, 1.5))
        axes.set_title(f"layer {layer}", **TITLE)
    _legend(figure, panels)
    return figure


def plot_curves(curves: Sequence[Mapping[str, Any]], loss: float) -> Figure:
    """Gain of a word and S_f against the strength, for the strongest neuron of each kind (figure 5).

    Args:
        curves: Each :attr:`cbsae_hub.studies.layer_steering.Steered.curve`, with ``layer`` and ``kind``.
        loss: S_f of answers that only become uniform, drawn as a dotted line.
    """
    _require(curves, "curves")
    layers = list(dict.fromkeys(curve["layer"] for curve in curves))
    kinds = list(dict.fromkeys(curve["kind"] for curve in curves))
    figure, panels = _figure(max(5.0, 2.7 * len(layers)), 5.4, columns=len(layers), rows=2)
    panels = np.reshape(panels, (2, len(layers)))
    for curve in curves:
        column, look = layers.index(curve["layer"]), _line(kinds.index(curve["kind"]))
        for axes, name in zip(panels[:, column], ("delta_p", "s_f")):
            axes.plot(curve["strengths"], curve[name], label=curve["kind"], marker="o", markersize=3, **look)
    for column, layer in enumerate(layers):
        panels[0, column].set_title(f"layer {layer}", **TITLE)
        panels[0, column].set(ylim=(-0.02, 1.02))
        panels[1, column].axhline(loss, color="grey", linewidth=0.8, linestyle=":")
        panels[1, column].set(xlabel="strength", ylim=(-0.02, 1.52))
    panels[0, 0].set_ylabel("ΔP of the word")
    panels[1, 0].set_ylabel("S_f")
    _legend(figure, panels[0])
    return figure


def plot_reach(rows: pd.DataFrame, beta: float) -> Figure:
    """Share of the vocabulary that some neuron's steering reaches, against the layer (figure 7).

    Args:
        rows: Of :func:`cbsae_hub.studies.layer_tables.over_seeds`: ``layer``, ``kind``, ``neurons`` and
            ``concept_coverage`` with its spread, of one strength.
        beta: The S_f above which a neuron reaches a word.
    """
    _require(rows, "neurons")
    figure, axes = _figure(6.4, 4.2)
    for i, (kind, part) in enumerate(rows.groupby("kind", sort=False)):
        counts = " to ".join(f"{count:,}" for count in sorted({part["neurons"].min(), part["neurons"].max()}))
        _with_spread(axes, part.sort_values("layer"), "concept_coverage", f"{kind} ({counts})", _line(i))
    axes.set(xlabel="layer", ylabel=f"share of the words that gain most by S_f > {beta:g}")
    axes.set_ylim(bottom=0)
    axes.set_title("Words that neurons reach; in brackets, how many neurons", **TITLE)
    axes.legend(**LEGEND)
    return figure


def _with_spread(axes: Any, rows: pd.DataFrame, name: str, label: str, look: Mapping[str, str]) -> None:
    """A line over the layers, with the standard deviation over seeds as bars where there are several."""
    spread = rows[f"{name}_sd"].fillna(0.0)
    axes.errorbar(rows["layer"], rows[name], yerr=spread, label=label, marker="o", markersize=4, capsize=2, **look)


def _panels(parts: Mapping[Any, Any], width: float, height: float, what: str) -> tuple[Figure, list[Any]]:
    """A figure with a panel for each part, several in a row."""
    _require(parts, what)
    columns = min(PANELS, len(parts))
    rows = -(-len(parts) // columns)
    figure, grid = _figure(width * columns, height * rows, columns, rows)
    panels = list(np.ravel(grid))
    for spare in panels[len(parts) :]:
        spare.remove()
    return figure, panels[: len(parts)]


def _legend(figure: Figure, panels: Sequence[Any]) -> None:
    """One legend of all panels, of which some may lack a line that others have."""
    lines: dict[str, Any] = {}
    for axes in panels:
        lines |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels()) if label not in lines}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, **LEGEND)


def _require(data: Any, what: str) -> None:
    if not len(data):
        raise ValueError(f"there are no {what} to draw")
