"""Scores of a model's neurons in a folder: what a pass over images wrote, and what later steps read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from cbsae_hub.hub.files import read_json, replace_file, write_json
from cbsae_hub.neurons.table import SEEDED, SIMULATED, STEERED
from cbsae_hub.version import __version__

SCHEMA_VERSION = 1
TEXTS = "vocabulary.safetensors"


@dataclass
class Scores:
    """Results of a pass over the images.

    Attributes:
        neurons: One row per neuron, docs/neuron-table.md.
        labels: One row per known label: its best neuron; None without ground truth.
        summary: Figures of the whole model.
        examples: See :func:`cbsae_hub.scoring.examples.choose_examples`; None if image-level latents were not kept.
        texts: The judge's embeddings of the concepts that name neurons, ``[concepts, d]`` float16.
        contexts: Of neurons that read texts, instead of examples: see :class:`cbsae_hub.neurons.pack.Context`.
    """

    neurons: pd.DataFrame
    labels: pd.DataFrame | None
    summary: dict[str, Any]
    examples: pd.DataFrame | None = None
    texts: np.ndarray | None = None
    contexts: pd.DataFrame | None = None

    def save(self, folder: str | Path, **more: Any) -> None:
        """Writes the tables, the embeddings and, last, ``scores.json`` with what else is given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("neurons", "labels", "examples", "contexts"):
            if (frame := getattr(self, name)) is not None:
                with replace_file(folder / f"{name}.parquet") as partial:
                    frame.to_parquet(partial, index=False)
        if self.texts is not None:
            with replace_file(folder / TEXTS) as partial:
                save_file({"text_embeddings": self.texts}, partial)
        content = {**self.summary, **more, "schema_version": SCHEMA_VERSION, "package_version": __version__}
        write_json(folder / "scores.json", content)

    @classmethod
    def load(cls, folder: str | Path) -> "Scores":
        """Reads the files of :meth:`save`; what else was given there is part of ``summary``.

        Raises:
            OSError: If it is missing or of another schema version.
        """
        folder = Path(folder)
        if not (folder / "scores.json").is_file():
            raise OSError(f"there are no scores in {folder}: make them with `cbsae score`")
        summary = read_json(folder / "scores.json")
        if summary.get("schema_version") != SCHEMA_VERSION:
            raise OSError(f"{folder} has scores of schema {summary.get('schema_version')}, not {SCHEMA_VERSION}")
        files = {name: folder / f"{name}.parquet" for name in ("labels", "examples", "contexts")}
        frames = {name: pd.read_parquet(file) if file.is_file() else None for name, file in files.items()}
        texts = load_file(folder / TEXTS)["text_embeddings"] if (folder / TEXTS).is_file() else None
        return cls(pd.read_parquet(folder / "neurons.parquet"), summary=summary, texts=texts, **frames)

    def with_steerability(self, scores: pd.DataFrame, summary: Mapping[str, Any]) -> "Scores":
        """The same with the columns and the summary of :class:`SteerabilityScorer`, instead of older ones."""
        return self._with(STEERED, scores, {"steerability": dict(summary)})

    def with_simulation(self, scores: pd.DataFrame, summary: Mapping[str, Any]) -> "Scores":
        """The same with the columns of names as simulations, see :mod:`cbsae_hub.scoring.simulation`."""
        return self._with(SIMULATED, scores, {"simulation": dict(summary)})

    def with_dictionary(self, scores: pd.DataFrame, summary: Mapping[str, Any]) -> "Scores":
        """The same with the columns and the figures of :mod:`cbsae_hub.studies.dictionary`, instead of older ones."""
        return self._with(SEEDED, scores, {"dictionary": dict(summary)})

    def _with(self, prefix: str | tuple[str, ...], scores: pd.DataFrame, summary: Mapping[str, Any]) -> "Scores":
        """The same with columns by neuron instead of those that begin with a prefix, and parts of the summary."""
        older = [name for name in self.neurons if name.startswith(prefix)]
        frame = self.neurons.drop(columns=older).merge(scores, on="neuron", how="left", validate="one_to_one")
        return replace(self, neurons=frame, summary={**self.summary, **summary})

    def with_steerability_of(self, other: "Scores") -> "Scores":
        """The same with the steerability of another pass over the same images, if that has any.

        Raises:
            ValueError: If its neurons have other names: the steered answers were compared with those.
        """
        if "steerability" not in other.summary:
            return self
        if self.neurons["name"].fillna("").tolist() != other.neurons["name"].fillna("").tolist():
            raise ValueError("steerability was measured with other names of the neurons: score and steer again")
        columns = [name for name in other.neurons if name.startswith(STEERED)]
        rows = other.neurons.loc[other.neurons["steerability"].notna(), ["neuron", *columns]]
        return self.with_steerability(rows, other.summary["steerability"])
