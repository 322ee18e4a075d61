"""Two sanity tests of scores that hold a neuron against a concept: do they fall when the concept's labels are wrong?

Half of the images with a neuron's label lose it; or as many images that lack it get it, at random. A score that is to
tell a right name from a wrong one must fall both times. Source: Oikarinen et al., Evaluating neuron explanations, ICML
2025 (arXiv 2506.05774), section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm import tqdm

from cbsae_hub.metrics.detection import detection_score, draw_trials
from cbsae_hub.metrics.ground_truth import ground_truth_scores
from cbsae_hub.metrics.similarities import cosine, cosine_cubed, rank_reorder
from cbsae_hub.metrics.simulation import simulate_names
from cbsae_hub.metrics.soft_wpmi import SHARPNESS, evidence_of, images_that_count, prior_of, rank_weights
from cbsae_hub.metrics.top_images import strongest
from cbsae_hub.scoring.outcomes import spread
from cbsae_hub.studies.tables import markdown_table

TESTS = ("half", "double")
EPSILON = 0.001
"""A score has fallen if it is lower by more than this share of its size; the paper's."""
PASS = 0.9
"""A score passes a test if it falls for this share of the neurons."""
TRIAL = 10  # images of a detection
LIFT = "`truth_ap` above chance (it chooses `truth`)"


@dataclass(frozen=True)
class LabelledNeurons:
    """Neurons whose label is known.

    Attributes:
        latents: ``[images, all neurons]``, image-level; the prior of soft-WPMI is over all of them.
        labels: ``[images, all labels]`` bool: soft-WPMI compares a label with all of them.
        neurons: ``[pairs]``, the neurons that are tested.
        own: ``[pairs]``, the label of each.
        top_k: Images of a neuron that soft-WPMI counts.
        seed: Seed of what a score draws.
    """

    latents: sparse.csc_matrix
    labels: np.ndarray
    neurons: np.ndarray
    own: np.ndarray
    top_k: int = 100
    seed: int = 0

    @classmethod
    def ideal(cls, labels: np.ndarray, top_k: int = 100) -> "LabelledNeurons":
        """Neurons that are 1 where their label is, else 0: one for each label that can be halved and doubled."""
        usable = np.flatnonzero(can_be_changed(labels))
        return cls(sparse.csc_matrix(labels, dtype=np.float64), labels, usable, usable, top_k)

    @classmethod
    def clear(
        cls, latents: sparse.csc_matrix, labels: np.ndarray, least_ap: float, count: int, top_k: int, seed: int = 0
    ) -> "LabelledNeurons":
        """Neurons that detect a label with at least an average precision, each with the one that it detects best.

        Args:
            latents: ``[images, neurons]``, image-level.
            labels: ``[images, labels]`` bool.
            least_ap: The average precision.
            count: Number of neurons, evenly spread over all such.
            top_k: See the class.
            seed: Likewise.
        """
        scores = ground_truth_scores(latents, labels)
        best = np.nan_to_num(scores.lift(), nan=-np.inf).argmax(1)
        precision = scores.average_precision[np.arange(len(best)), best]
        detectors = np.flatnonzero((precision >= least_ap) & can_be_changed(labels)[best]).tolist()
        neurons = np.array(spread(detectors, count), dtype=int)
        return cls(latents, labels, neurons, best[neurons], top_k, seed)

    @property
    def activations(self) -> np.ndarray:
        """``[images, pairs]``, of the tested neurons."""
        return self.latents[:, self.neurons].toarray()


Score = Callable[[LabelledNeurons, np.ndarray], np.ndarray]
"""Scores ``[pairs]`` of the tested neurons with the labels ``[images, pairs]`` bool, a column for each."""


def can_be_changed(labels: np.ndarray) -> np.ndarray:
    """Whether each label ``[labels]`` is on at least two images, and on no more than half of all."""
    counts = labels.sum(0)
    return (counts >= 2) & (counts <= len(labels) / 2)


def change_labels(labels: np.ndarray, test: str, generator: np.random.Generator) -> np.ndarray:
    """Labels ``[images, pairs]`` bool: of each column half are gone at random, or as many are added."""
    changed = labels.copy()
    for column in changed.T:
        present = np.flatnonzero(column)
        if test == "half":
            column[generator.choice(present, len(present) // 2, replace=False)] = False
        else:
            column[generator.choice(np.flatnonzero(~column), len(present), replace=False)] = True
    return changed


def _of_pairs(function: Callable[..., torch.Tensor]) -> Score:
    """A function of all neurons and concepts as a score of pairs, labels in the place of similarities."""

    def score(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
        values = function(torch.from_numpy(labelled.activations), torch.from_numpy(labels.astype(np.float64)))
        return values.diagonal().numpy()

    return score


def _soft_wpmi(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
    """Soft-WPMI as neurons are named by it; in each column only the pair's own label is changed."""
    entries = labelled.latents.tocoo()
    places = torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
    latents = torch.sparse_coo_tensor(places, entries.data, entries.shape, check_invariants=False).coalesce()
    top, rows = strongest(latents, labelled.top_k)
    before, after = (torch.from_numpy(part.astype(np.float64)) for part in (labelled.labels, labels))
    weight = (SHARPNESS * before).exp()
    own = (SHARPNESS * after).exp()
    probabilities = own / (weight.sum(1, keepdim=True) - weight[:, labelled.own] + own)
    weights, _ = rank_weights(rows.shape[1], labelled.top_k)
    evidence = evidence_of(rows, images_that_count(top, False), weights, probabilities)
    scores = evidence - prior_of(evidence, top[:, 0] > 0)
    return scores[labelled.neurons, np.arange(len(labelled.neurons))].numpy()


def _truth(name: str) -> Score:
    def score(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
        scores = ground_truth_scores(labelled.activations, labels)
        return {"ap": scores.average_precision, "auroc": scores.auroc, "lift": scores.lift()}[name].diagonal()

    return score


def _name(name: str) -> Score:
    """Scores of names as simulations, by a judge that sees the labels."""

    def score(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
        own = np.arange(len(labelled.own))
        return getattr(simulate_names(labelled.activations, labels.astype(np.float64), own, others=1), name)

    return score


def _detection(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
    trials = draw_trials(labelled.activations, TRIAL, labelled.seed)
    return np.array([detection_score(one, trial) for one, trial in zip(labels.T.astype(np.float64), trials)])


def _counted(rule: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]) -> Score:
    """A score of counts: images that fire and have the label, that fire, that have the label, and all."""

    def score(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
        fires = labelled.activations > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            return rule((fires & labels).sum(0), fires.sum(0), labels.sum(0), len(labels))

    return score


def _coin(labelled: LabelledNeurons, labels: np.ndarray) -> np.ndarray:
    """A score that knows nothing: a number that depends on the labels alone, and means nothing."""
    places = np.arange(1, len(labels) + 1)
    return 1 + np.sin(12.9898 * (places @ labels)) % 1


SCORES: Mapping[str, Score] = {
    "soft-WPMI (`score`, `interpretability`)": _soft_wpmi,
    "cosine": _of_pairs(cosine),
    "cosine cubed": _of_pairs(cosine_cubed),
    "rank reorder": _of_pairs(rank_reorder),
    "`truth_ap`": _truth("ap"),
    LIFT: _truth("lift"),
    "`truth_auroc`": _truth("auroc"),
    "`name_correlation`": _name("correlation"),
    "`name_ap`": _name("average_precision"),
    "detection": _detection,
}
"""Our scores of names and of truth, by the text that the table has."""
REFERENCES: Mapping[str, Score] = {
    "F1": _counted(lambda both, fires, has, _: 2 * both / (fires + has)),
    "IoU": _counted(lambda both, fires, has, _: both / (fires + has - both)),
    "recall": _counted(lambda both, fires, has, _: both / has),
    "precision": _counted(lambda both, fires, has, _: both / fires),
    "accuracy": _counted(lambda both, fires, has, n: (n - fires - has + 2 * both) / n),
    "balanced accuracy": _counted(
        lambda both, fires, has, n: (both / fires + (n - fires - has + both) / (n - fires)) / 2
    ),
    "a number that means nothing": _coin,
}
"""Scores whose outcome is known: of counts, with a neuron firing or not; and one that no name can move."""
CLAIMS = frozenset({"cosine", "`truth_ap`", LIFT, "`name_correlation`", "`name_ap`", "F1", "IoU"})
"""Scores that claim to pass both tests."""


def run_tests(labelled: LabelledNeurons, draws: int = 5, scores: Mapping[str, Score] | None = None) -> pd.DataFrame:
    """Tests scores.

    Args:
        labelled: Neurons and their labels.
        draws: How often labels are changed.
        scores: Scores by name; default all of :data:`SCORES` and :data:`REFERENCES`.

    Returns:
        One row per ``score`` and ``test``: ``falls``, the share of pairs whose score falls, in the mean over draws;
        ``low`` and ``high``, that of the draws with the fewest and the most; ``change``, the median change, as a share
        of the score's size; ``pairs``; ``passes``; and ``claims``, whether the score claims to.

    Raises:
        ValueError: If there are no pairs, or a label cannot be halved and doubled.
    """
    if not len(labelled.own):
        raise ValueError("no neuron has a label that it could be tested with: lower least_ap, or give more images")
    labels = labelled.labels[:, labelled.own]
    if not can_be_changed(labels).all():
        raise ValueError("a label is on fewer than two images or on more than half of them: it cannot be changed")
    rows = []
    scores = {**SCORES, **REFERENCES} if scores is None else scores
    for name, score in tqdm(scores.items(), desc="test", unit="score"):
        before = score(labelled, labels)
        for test in TESTS:
            generators = (np.random.default_rng((labelled.seed, draw)) for draw in range(draws))
            after = np.stack([score(labelled, change_labels(labels, test, one)) for one in generators])
            falls = (after < before - EPSILON * np.abs(before)).mean(1)
            with np.errstate(invalid="ignore", divide="ignore"):
                change = (after - before) / np.abs(before)
            finite = change[np.isfinite(change)]
            rows.append(
                {"score": name, "test": test, "falls": falls.mean(), "low": falls.min(), "high": falls.max(),
                 "change": np.median(finite) if len(finite) else np.nan, "pairs": len(before),
                 "passes": bool(falls.mean() >= PASS), "claims": name in CLAIMS}
            )  # fmt: skip
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    """The table as it stands in the documentation: a row per score, for each kind of neurons and test the share."""
    lines = []
    for score, part in table.groupby("score", sort=False):
        cells = {
            f"{row.neurons}: {row.test}": f"{100 * row.falls:.0f} ({100 * row.low:.0f} to {100 * row.high:.0f})"
            for row in part.itertuples()
        }
        verdicts = {
            f"passes, {kind}": "yes" if rows["passes"].all() else "no"
            for kind, rows in part.groupby("neurons", sort=False)
        }
        lines.append({"score": score, **cells, "claims to pass": "yes" if score in CLAIMS else "no", **verdicts})
    return markdown_table(pd.DataFrame(lines))
