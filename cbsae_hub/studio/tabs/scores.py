"""The tab "Map and scores": interpretability against steerability, a table of all neurons, and the evaluation."""

import json
import math
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from markupsafe import Markup

from cbsae_hub.hub.files import write_text
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.studio.links import MAX_QUERY, SORTS, Link
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.session import LOOKUP, SessionState
from cbsae_hub.studio.tabs.collection import CollectionBox
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.style import script
from cbsae_hub.studio.view.templates import template
from cbsae_hub.words import name_key, number

MOST_DOTS = 8000  # of a map; of larger models, every n-th neuron
ROWS = 100
_TEMPLATE = template("scores")


class ScoresTab(Tab):
    """All scores of all neurons, and those that the visitor has collected."""

    def __init__(self, session: SessionState):
        super().__init__(session)
        self.collection = CollectionBox(session)

    def render(self) -> None:
        first = self.session.serving.first
        self.maps = gr.HTML(self._maps(first), elem_id="maps", js_on_load=script("map"))
        gr.HTML(_TEMPLATE.all_neurons())
        with gr.Row():
            self.words = gr.Textbox(label="Name contains", max_length=MAX_QUERY, elem_id="rows-words", min_width=140)
            self.sort = gr.Dropdown(list(SORTS), value="Name's score", label="Largest first", elem_id="rows-sort")
            self.csv = gr.HTML(_csv_link(first), elem_id="csv", min_height=0)
        self.rows = self.session.card(rows_of(first, "", "score"), "rows")
        self.collection.render()
        self.evaluation = gr.HTML(evaluation_of(first), elem_id="evaluation")
        self.outputs = [self.maps, self.words, self.sort, self.rows, self.csv, self.evaluation]
        self.parts = {"named": self.words, "sort": self.sort}
        inputs = [self.session.model, self.words, self.sort]
        changes = [self.words.submit, self.words.input, self.sort.change]
        gr.on(changes, self.filter, inputs, self.rows, **LOOKUP, trigger_mode="always_last")

    @kindly
    def filter(self, key: Any, words: Any, sort: Any) -> str:
        """Returns the neurons whose names contain some words."""
        if sort not in SORTS:
            raise Refused("There is no such order.")
        return rows_of(self.session.model_of(key), str(words or "")[:MAX_QUERY], SORTS[sort])

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs` for a link: which rows, and the model's own map and tables."""
        order = next(title for title, column in SORTS.items() if column == link.sort)
        rows = [link.name_filter, order, rows_of(model, link.name_filter, link.sort)]
        if not new:
            return [gr.skip(), *rows, gr.skip(), gr.skip()]
        return [self._maps(model), *rows, _csv_link(model), evaluation_of(model)]

    def _maps(self, model: LoadedModel) -> Markup:
        """Returns the maps of the SAE that a CB-SAE was made of, if the page has it, and of the model."""
        parent = self.session.serving.parent_of(model)
        parents = [] if parent is None else [map_of(parent, "The SAE that it was made of")]
        return _TEMPLATE.maps([*parents, map_of(model, model.label)])


def map_of(model: LoadedModel, title: str) -> Markup:
    """Returns a map with a dot for each neuron; static/map.js draws the dots."""
    frame = model.pack.neurons.frame
    if "steerability" not in frame or frame["steerability"].notna().sum() < 2:
        return _TEMPLATE.no_map(title)
    quarters = quadrants(frame)
    dots = frame[frame["steerability"].notna() & frame["interpretability"].notna()]
    dots = dots.iloc[:: math.ceil(len(dots) / MOST_DOTS)]
    points = [
        [int(row.neuron), round(row.interpretability, 3), round(row.steerability, 3), int(row.kind == "cb"),
         html.neuron_title(row)]
        for row in dots.itertuples()
    ]  # fmt: skip
    rows = []
    for name, count in quarters["counts"].items():
        interpretability, steerability = name.split(" / ")
        where = f"{interpretability} interpretability, {steerability} steerability"
        rows.append((where, count, f"{quarters['shares'][name]:.0%}"))
    return _TEMPLATE.map(
        title=title,
        model=model.key,
        points=json.dumps(points),
        count=len(points),
        lines=json.dumps([float(x) for x in quarters["thresholds"]]),
        with_concepts=any(point[3] for point in points),
        quadrants=rows,
    )


def rows_of(model: LoadedModel, words: str, column: str) -> Markup:
    """Returns the first rows of the table of all neurons."""
    frame = model.pack.neurons.frame
    if key := name_key(words):
        frame = frame[frame["name"].fillna("").map(name_key).str.contains(key, regex=False)]
    if column in frame:
        frame = frame.sort_values(column, ascending=False)
    _, *scores = SORTS.values()
    rows = [
        (
            row.neuron,
            model.icon(row.neuron),
            html.neuron_title(row),
            [*(_number(getattr(row, name, math.nan)) for name in scores), row.status],
        )
        for row in frame.head(ROWS).itertuples()
    ]
    return _TEMPLATE.rows(["Neuron", *list(SORTS)[1:], "Status"], rows, len(frame), ROWS)


def evaluation_of(model: LoadedModel) -> str:
    """Returns the figures of nonsense, and the tables of `cbsae evaluate`; "" where there are none."""
    tables = []
    for name, rows in model.evaluation.items():
        frame = pd.DataFrame(rows).dropna(axis=1, how="all")
        cells = [[_number(cell) for cell in row] for row in frame.itertuples(index=False)]
        if rows:
            tables.append((name[0].upper() + name[1:], list(frame.columns), cells))
    nonsense = [[_number(cell) for cell in row.values()] for row in model.beside_nonsense]
    titles = [name.replace("_", " ") for row in model.beside_nonsense[:1] for name in row]
    return _TEMPLATE.nonsense(titles, nonsense) + (_TEMPLATE.evaluation(tables) if tables else "")


def _csv_link(model: LoadedModel) -> Markup:
    """Writes the whole neuron table, once; returns its link."""
    file = downloads.served(model.key) / f"{model.name.replace('/', '-')}.csv"
    if not file.is_file():
        frame = model.pack.neurons.frame
        lists = {name: frame[name].map(_listed) for name in frame if frame[name].map(_is_list).any()}
        write_text(file, frame.assign(**lists).to_csv(index=False))
    return html.PIECES.download("All of them as CSV", downloads.address(file))


def _is_list(value: Any) -> bool:
    return hasattr(value, "tolist") or isinstance(value, (list, tuple))


def _listed(value: Any) -> str:
    """Returns a list in one cell, on one line."""
    return json.dumps(np.asarray(value).tolist()) if _is_list(value) else "[]"


def _number(value: Any) -> str:
    return value if isinstance(value, str) else number(value, missing="-")
