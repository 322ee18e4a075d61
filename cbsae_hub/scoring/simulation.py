"""Names of neurons tested on held-out images, by a judge that did not give them: columns of the neuron table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.metrics.simulation import simulate_names
from cbsae_hub.scoring.report import mean
from cbsae_hub.scoring.scorer import NeuronScorer

COLUMNS = {  # of the neuron table, and where a Simulation has them
    "name_correlation": "correlation",
    "name_ap": "average_precision",
    "name_correlation_null": "correlation_null",
    "name_ap_null": "average_precision_null",
    "name_percentile": "percentile",
}


@dataclass(frozen=True)
class SeenImages:
    """Images as an SAE and a judge see them.

    Attributes:
        latents: ``[images, neurons]``, image-level.
        embeddings: ``[images, d]``, unit, of the judge.
        judge: The judge.
    """

    latents: sparse.csc_matrix
    embeddings: np.ndarray
    judge: ClipLike

    @classmethod
    def of(cls, scorer: NeuronScorer) -> "SeenImages":
        """The images that a scorer has run on.

        Raises:
            ValueError: If it has no judge, or was made without truth and did not keep the latents.
        """
        if scorer.judge is None:
            raise ValueError("names are tested by a judge, and the scorer has none")
        return cls(scorer.latents(), scorer.judge_embeddings().double().cpu().numpy(), scorer.judge)

    def similarities(self, texts: Sequence[str]) -> np.ndarray:
        """The judge's cosine of every image and text, ``[images, texts]`` float64."""
        if not texts:
            return np.zeros((len(self.embeddings), 0))
        return self.embeddings @ self.judge.embed_texts(list(texts)).double().cpu().numpy().T


def score_names(frame: pd.DataFrame, images: SeenImages, others: int = 100, seed: int = 0) -> pd.DataFrame:
    """Scores the names of a neuron table as simulations, see :func:`cbsae_hub.metrics.simulate_names`.

    Args:
        frame: The neuron table, with the columns ``neuron`` and ``name``.
        images: Images that the neurons were not named with.
        others: Number of names of other neurons that a name is compared with.
        seed: Seed of their draw.

    Returns:
        One row per neuron: ``neuron`` and the columns that begin with ``name_``, docs/neuron-table.md.

    Raises:
        ValueError: If the table is of another model.
    """
    if len(frame) != images.latents.shape[1] or set(frame["neuron"]) != set(range(len(frame))):
        raise ValueError(f"the table has {len(frame)} neurons, the model {images.latents.shape[1]}: score this model")
    names = sorted(set(frame["name"].dropna()))
    place = {name: i for i, name in enumerate(names)}
    own = np.array([place.get(name, -1) for name in frame.sort_values("neuron")["name"]])
    result = simulate_names(images.latents, images.similarities(names), own, others, seed)
    return pd.DataFrame({"neuron": range(len(frame)), **{name: getattr(result, at) for name, at in COLUMNS.items()}})


def simulation_summary(columns: pd.DataFrame, sure: float) -> dict[str, Any]:
    """Figures of all neurons whose name could be tested: means, and the share above names of other neurons."""
    tested = columns.dropna(subset="name_correlation")
    return {
        "neurons": len(tested),
        **{name: mean(columns[name].dropna()) for name in COLUMNS},
        "share_above_null": mean(tested["name_percentile"] >= sure),
        "sure": sure,
    }
