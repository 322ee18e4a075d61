"""Explanations of the same neurons side by side: CLIP-Dissect's names, linear explanations, words of other models.

Every explanation is tested in the same way on held-out images: an independent judge's similarity to it against the
neuron's activation, and the detection of images that fire. Where the truth is known, it is compared with that.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cbsae_hub.metrics.detection import detection_score, draw_trials
from cbsae_hub.metrics.linear_explanation import LinearExplanations
from cbsae_hub.metrics.simulation import correlations
from cbsae_hub.scoring.outcomes import spread
from cbsae_hub.scoring.report import CLEAR
from cbsae_hub.scoring.simulation import SeenImages
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.words import same_name, words_of

MEASURES = {  # column of the rows, and its title
    "right": "right, %",
    "right_clear": "right where truth is clear, %",
    "correlation": "correlation",
    "detection": "detection",
}
PERCENT = ("right", "right_clear")
RESAMPLES = 2000


def choose(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many of the neurons that have a name, evenly spread over them.

    Raises:
        ValueError: If no neuron has a name.
    """
    with_name = frame[frame["name"].notna()].sort_values("neuron")
    if with_name.empty:
        raise ValueError("no neuron has a name to test: score with a judge and concepts first")
    return with_name.iloc[spread(range(len(with_name)), count)].reset_index(drop=True)


def says(answer: str | None, truth: str) -> bool:
    """Whether an answer in free text has a label's words, one behind the other."""
    words, label = words_of(answer or ""), words_of(truth)
    return bool(label) and any(words[i : i + len(label)] == label for i in range(len(words) - len(label) + 1))


def shuffled(texts: Sequence[str | None], seed: int) -> list[str | None]:
    """Texts of other neurons: every text is at another place, if there are at least two."""
    order = np.random.default_rng(seed).permutation(len(texts))
    result: list[str | None] = [None] * len(texts)
    for place, other in zip(order, np.roll(order, 1)):
        result[place] = texts[other]
    return result


class NameTrial:
    """The test of explanations of some neurons.

    Args:
        neurons: Rows of a neuron table, with ``neuron``, and ``truth`` and ``truth_ap`` where these are known.
        images: Held-out images and their judge.
        trial: Images on which a neuron fires, and as many on which it does not, that the judge has to tell apart.
        seed: Seed of the draw of these.
    """

    def __init__(self, neurons: pd.DataFrame, images: SeenImages, trial: int = 10, seed: int = 0):
        self.neurons, self.images = neurons, images
        self._latents = images.latents[:, neurons["neuron"].to_numpy()]
        self._trials = draw_trials(self._latents, trial, seed)
        self._predictions: dict[str, np.ndarray] = {}
        unknown = [None] * len(neurons)
        truths = neurons["truth"].tolist() if "truth" in neurons else unknown
        self._truth = [truth if isinstance(truth, str) else None for truth in truths]
        self._clear = (neurons["truth_ap"] >= CLEAR).tolist() if "truth_ap" in neurons else unknown

    def of_names(self, method: str, names: Sequence[str | None]) -> pd.DataFrame:
        """Tests names from a list of concepts: a right one is the neuron's truth."""
        right = [None if truth is None else same_name(name or "", truth) for name, truth in zip(names, self._truth)]
        return self._of_texts(method, names, right)

    def of_answers(self, method: str, answers: Sequence[str | None]) -> pd.DataFrame:
        """Tests answers in free text: a right one has the words of the neuron's truth."""
        right = [None if truth is None else says(answer, truth) for answer, truth in zip(answers, self._truth)]
        return self._of_texts(method, answers, right)

    def of_sums(
        self, method: str, explanations: LinearExplanations, concepts: Sequence[str], count: int
    ) -> pd.DataFrame:
        """Tests sums of up to ``count`` concepts: in a right one, one of them is the neuron's truth."""
        ids = self.neurons["neuron"].to_numpy()
        chosen = explanations.concepts[ids, :count]
        columns = np.unique(chosen[chosen >= 0])
        similarities = np.zeros((len(self.images.embeddings), len(concepts)))
        similarities[:, columns] = self.images.similarities([concepts[i] for i in columns])
        texts = [[concepts[i] for i in row if i >= 0] for row in chosen]
        right = [
            None if truth is None else any(same_name(one, truth) for one in text)
            for text, truth in zip(texts, self._truth)
        ]
        predictions = explanations.predict(similarities, count, ids)
        return self._rows(method, [" + ".join(text) or None for text in texts], right, predictions)

    def _of_texts(self, method: str, texts: Sequence[str | None], right: Sequence[bool | None]) -> pd.DataFrame:
        predictions = np.stack([self._prediction(text or "") for text in texts], 1)
        return self._rows(method, texts, right, predictions)

    def _prediction(self, text: str) -> np.ndarray:
        """The judge's similarity of every image to a text, ``[images]``; 0 for one that says nothing to it."""
        if text not in self._predictions:
            try:
                similarities = self.images.similarities([text])[:, 0] if text else None
            except ValueError:  # its tokenizer cannot read it
                similarities = None
            self._predictions[text] = np.zeros(len(self.images.embeddings)) if similarities is None else similarities
        return self._predictions[text]

    def _rows(
        self, method: str, texts: Sequence[str | None], right: Sequence[bool | None], predictions: np.ndarray
    ) -> pd.DataFrame:
        """One row per neuron; what predicts nothing has correlation 0, where the neuron fires at all."""
        fires = np.array([len(trial.firing) > 0 for trial in self._trials])
        correlation = correlations(self._latents, predictions)
        correlation = np.where(fires & np.isnan(correlation), 0.0, np.where(fires, correlation, np.nan))
        detection = [detection_score(one, trial) for one, trial in zip(predictions.T, self._trials)]
        outcomes = [np.nan if one is None else float(one) for one in right]
        return pd.DataFrame(
            {
                "method": method,
                "neuron": self.neurons["neuron"].to_numpy(),
                "text": pd.Series(list(texts), dtype=object),
                "right": outcomes,
                "right_clear": [one if clear else np.nan for one, clear in zip(outcomes, self._clear)],
                "correlation": correlation,
                "detection": detection,
            }
        )


def summary(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means by method and measure, with 95 % intervals of a bootstrap over neurons.

    Args:
        rows: See :class:`NameTrial`.
        seed: Seed of the bootstrap.

    Returns:
        One row per ``method`` and ``measure``: ``mean``, ``low``, ``high``, the number of ``neurons`` with a value, and
        how many ``texts`` are different.
    """
    lines = []
    for method, part in rows.groupby("method", sort=False):
        texts = part["text"].dropna().str.lower().nunique()
        for column, title in MEASURES.items():
            values = part[column].dropna().to_numpy() * (100 if column in PERCENT else 1)
            lines.append({"method": method, "measure": title, **_interval(values, seed), "texts": texts})
    return pd.DataFrame(lines)


def _interval(values: np.ndarray, seed: int) -> dict[str, float]:
    if not len(values):
        return {"mean": np.nan, "low": np.nan, "high": np.nan, "neurons": 0}
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "neurons": len(values)}


def as_markdown(table: pd.DataFrame) -> str:
    """The summary as it stands in the documentation: a row per method."""
    lines = []
    for method, part in table.groupby("method", sort=False):
        cells = {}
        for row in part.itertuples():
            digits = 1 if "%" in row.measure else 3
            numbers = [f"{value:.{digits}f}" for value in (row.mean, row.low, row.high)]
            cells[row.measure] = "" if not row.neurons else "{} ({} to {})".format(*numbers)
        lines.append(
            {"explanation": method, **cells, "neurons": part["neurons"].max(), "different": part["texts"].iloc[0]}
        )
    return markdown_table(pd.DataFrame(lines))
