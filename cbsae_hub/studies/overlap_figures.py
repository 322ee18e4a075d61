"""Figures of what is shared inside a LLaVA: figures 6 and 7 of Olson et al. (2025)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from cbsae_hub.plots import COLOURS, HEAT, LEGEND, TITLE, _figure

LABELLED = 40  # classes up to which their names stand below the bars
PARTNERS = {"matched": "its own pictures", "shuffled": "those of others"}
PLACES = {"both": COLOURS[2], "projector alone": COLOURS[0], "layer alone": COLOURS[1]}


@dataclass(frozen=True)
class PictureMaps:
    """A picture with its maps at two places, ``[rows, columns]``, and the patches that are active there, bool."""

    picture: Image.Image
    projector: np.ndarray
    layer: np.ndarray
    active_projector: np.ndarray
    active_layer: np.ndarray


def plot_word_overlaps(tables: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> Figure:
    """Overlap of each class's texts and pictures beside that of shuffled ones, a panel for each layer, sorted.

    Args:
        tables: Title of a panel to :func:`cbsae_hub.studies.overlap.against_shuffled` of its classes.
        classes: Names of the classes.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not tables:
        raise ValueError("there are no overlaps to draw")
    labelled = len(classes) <= LABELLED
    figure, panels = _figure(8, (3.4 if labelled else 2.4) * len(tables), rows=len(tables))
    for axes, (title, table) in zip(np.ravel(panels), tables.items()):
        order = (-table["matched"].to_numpy()).argsort(kind="stable")
        places = np.arange(len(order))
        for colour, (column, label) in zip(COLOURS, PARTNERS.items()):
            axes.plot(places, table[column].to_numpy()[order], ".", color=colour, markersize=4, label=label)
        axes.set(ylabel="Jaccard index")
        names = [classes[i] for i in order] if labelled else []
        axes.set_xticks(places[: len(names)], names, rotation=90, fontsize=8)
        axes.set_title(title, **TITLE)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, **LEGEND)
    return figure


def plot_patch_maps(rows: Sequence[PictureMaps], layer: int) -> Figure:
    """Pictures with their maps behind the projector and at a layer, and where they are active: there, here, or at both.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not rows:
        raise ValueError("there are no pictures to draw")
    figure, grid = _figure(8, 2.1 * len(rows) + 0.5, columns=4, rows=len(rows))
    titles = "picture", "projector", f"layer {layer}", "overlay"
    for i, (line, one) in enumerate(zip(np.reshape(grid, (-1, 4)), rows)):
        lines, columns = one.projector.shape
        extent = (0, columns, lines, 0)
        before, after = one.active_projector, one.active_layer
        colours = np.zeros((lines, columns, 4))
        for chosen, colour in zip((before & after, before & ~after, after & ~before), PLACES.values()):
            colours[chosen] = to_rgba(colour, 0.7)
        for axes, heat in zip(line, (None, one.projector, one.layer, colours)):
            axes.imshow(one.picture, extent=extent)
            if heat is colours:
                axes.imshow(heat, extent=extent)
            elif heat is not None:
                axes.imshow(heat, cmap=HEAT, extent=extent, alpha=0.8)
            axes.set_axis_off()
        if i == 0:
            for axes, title in zip(line, titles):
                axes.set_title(title, **TITLE)
    marks = [axes.plot([], [], "s", color=colour, label=name)[0] for name, colour in PLACES.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, **LEGEND)
    return figure
