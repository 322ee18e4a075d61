"""The tab "Map and scores": interpretability against steerability, a table of all neurons, and the evaluation."""

import json
import math
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from cbsae_hub.hub.files import write_text
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.studio.links import MAX_QUERY, SORTS, Link
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.visit import LOOKUP, Visit, kindly
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.html import attribute, escape
from cbsae_hub.studio.view.pictures import ImageRefused
from cbsae_hub.studio.view.style import script
from cbsae_hub.words import name_key

MOST_DOTS = 8000  # of a map; of larger models, every n-th neuron
ROWS = 100


class ScoresTab:
    """What was measured of all neurons.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit

    def render(self) -> None:
        """Adds the tab's components and events to the page that is being built."""
        first = self.visit.serving.first
        self.maps = gr.HTML(self._maps(first), elem_id="maps", js_on_load=script("map"))
        gr.HTML("<h2>All neurons</h2>")
        with gr.Row():
            self.words = gr.Textbox(label="Name contains", max_length=MAX_QUERY, elem_id="rows-words", min_width=140)
            self.sort = gr.Dropdown(list(SORTS), value="Name's score", label="Largest first", elem_id="rows-sort")
            self.csv = gr.HTML(_csv_link(first), elem_id="csv", min_height=0)
        self.rows = self.visit.card(rows_of(first, "", "score"), "rows")
        self.evaluation = gr.HTML(evaluation_of(first), elem_id="evaluation")
        inputs = [self.visit.served, self.words, self.sort]
        changes = [self.words.submit, self.words.input, self.sort.change]
        gr.on(changes, self.filter, inputs, self.rows, **LOOKUP, trigger_mode="always_last")

    @kindly
    def filter(self, served: Any, words: Any, sort: Any) -> str:
        """The neurons whose names contain some words."""
        if sort not in SORTS:
            raise ImageRefused("There is no such order.")
        return rows_of(self.visit.loaded(served), str(words or "")[:MAX_QUERY], SORTS[sort])

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """What a link asks for: which rows, and the model's own map and tables."""
        order = next(title for title, column in SORTS.items() if column == link.sort)
        rows = [link.named, order, rows_of(loaded, link.named, link.sort)]
        if not new:
            return [gr.skip(), *rows, gr.skip(), gr.skip()]
        return [self._maps(loaded), *rows, _csv_link(loaded), evaluation_of(loaded)]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.maps, self.words, self.sort, self.rows, self.csv, self.evaluation]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab."""
        return {"named": self.words, "sort": self.sort}

    def _maps(self, loaded: Loaded) -> str:
        """The maps of the SAE that a CB-SAE was made of, if the page has it, and of the model."""
        parent = self.visit.serving.parent_of(loaded)
        shown = [] if parent is None else [map_of(parent, "The SAE that it was made of")]
        return f'<div class="cb-maps">{"".join([*shown, map_of(loaded, loaded.label)])}</div>'


def map_of(loaded: Loaded, title: str) -> str:
    """A dot for each neuron; static/map.js draws them."""
    frame = loaded.pack.neurons.frame
    if "steerability" not in frame or frame["steerability"].notna().sum() < 2:
        return f"<section><h2>{escape(title)}</h2><p>Steerability has not been measured.</p></section>"
    found = quadrants(frame)
    known = frame[frame["steerability"].notna() & frame["interpretability"].notna()]
    known = known.iloc[:: math.ceil(len(known) / MOST_DOTS)]
    points = [
        [int(row.neuron), round(row.interpretability, 3), round(row.steerability, 3), int(row.kind == "cb"),
         html.neuron_title(row)]
        for row in known.itertuples()
    ]  # fmt: skip
    counts, shares = found["counts"], found["shares"]
    rows = [
        (f"{where[0]} interpretability, {where[1]} steerability", counts[name], f"{shares[name]:.0%}")
        for name in counts
        for where in [name.split(" / ")]
    ]
    several = any(point[3] for point in points)
    legend = "○ neurons of the SAE" + ("  ◆ concept neurons" if several else "")
    return (
        f'<section class="cb-map" data-points="{attribute(json.dumps(points))}" data-model="{attribute(loaded.key)}" '
        f'data-lines="{attribute(json.dumps([float(x) for x in found["thresholds"]]))}"><h2>{escape(title)}</h2>'
        f'<canvas width="10" height="10" role="img" aria-label="{len(points)} neurons by interpretability and '
        'steerability; the table below lists them"></canvas>'
        f'<p class="cb-map-said" role="status" aria-live="polite">{legend}. Click a dot.</p>'
        f"{html.table(('Quadrant', 'neurons', 'share'), rows)}</section>"
    )


def rows_of(loaded: Loaded, words: str, column: str) -> str:
    """The first rows of the table of all neurons."""
    frame = loaded.pack.neurons.frame
    if wanted := name_key(words):
        frame = frame[frame["name"].fillna("").map(name_key).str.contains(wanted, regex=False)]
    if column in frame:
        frame = frame.sort_values(column, ascending=False)
    body = "".join(
        f'<tr><th><button type="button" class="cb-pill" data-act="open" data-neuron="{row.neuron}">'
        f"{escape(html.neuron_title(row))}</button></th>"
        + "".join(f"<td>{_number(getattr(row, name, math.nan))}</td>" for name in list(SORTS.values())[1:])
        + f"<td>{escape(row.status)}</td></tr>"
        for row in frame.head(ROWS).itertuples()
    )
    head = html.heads(["Neuron", *list(SORTS)[1:], "Status"])
    said = f"{len(frame):,} neurons" + (f", the first {ROWS} are shown" if len(frame) > ROWS else "")
    return f'<p class="cb-hint" role="status">{said}.</p>' + html.scrolled(
        f'<table class="cb-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>', "cb-tall"
    )


def evaluation_of(loaded: Loaded) -> str:
    """The tables of training/evaluate.py, as they were measured."""
    tables = {name: pd.DataFrame(rows) for name, rows in loaded.evaluation.items() if rows}
    if not tables:
        return ""
    parts = [
        f"<h3>{escape(name[0].upper() + name[1:])}</h3>"
        + html.table(list(frame.columns), [[_number(cell) for cell in row] for row in frame.itertuples(index=False)])
        for name, frame in ((name, frame.dropna(axis=1, how="all")) for name, frame in tables.items())
    ]
    return (
        "<h2>SAE against CB-SAE</h2><p class='cb-hint'>Measured by training/evaluate.py; docs/results.md explains the "
        f"columns.</p>{''.join(parts)}"
    )


def csv_of(loaded: Loaded) -> Path:
    """A file with the whole neuron table."""
    file = downloads.served(loaded.key) / f"{Path(loaded.model_id).name}.csv"
    if not file.is_file():
        frame = loaded.pack.neurons.frame
        lists = {name: frame[name].map(_listed) for name in frame if frame[name].map(_is_list).any()}
        write_text(file, frame.assign(**lists).to_csv(index=False))
    return file


def _csv_link(loaded: Loaded) -> str:
    return html.download("All of them as CSV", downloads.address(csv_of(loaded)))


def _is_list(value: Any) -> bool:
    return hasattr(value, "tolist") or isinstance(value, (list, tuple))


def _listed(value: Any) -> str:
    """A list in one cell, on one line."""
    return json.dumps(np.asarray(value).tolist()) if _is_list(value) else "[]"


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:,.0f}" if float(value) == int(value) and abs(value) >= 10 else f"{value:.3f}"
