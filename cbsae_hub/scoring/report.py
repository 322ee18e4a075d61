"""Tables and figures from the measurements: one row per neuron, one per label, and a summary of the model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.metrics import Coherence, CommonKinds, GroundTruthScores, Naming, Overlaps, best_by_concept, coverage
from cbsae_hub.metrics.activity import occupied_bins, status
from cbsae_hub.metrics.normalise import to_unit_interval
from cbsae_hub.neurons.chance import SURE
from cbsae_hub.neurons.table import rows_of
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.words import same_name

MEASURED = (
    "reconstruction", "shares", "l0", "interpretability", "coverage", "monosemanticity", "uniqueness", "redundancy",
    "spatial", "hierarchy", "simulation", "dictionary", "downstream", "truth", "steerability",
)  # fmt: skip
"""Parts of the summary that are figures of the neurons; the others say how they were scored."""
CLEAR = 0.5  # average precision from which a neuron clearly detects a label


@dataclass
class Measurements:
    """Results of the metrics of a pass, named as those; see each metric's ``compute``.

    Attributes:
        naming: Names by each concept set; the first one's are those of the neurons. Empty without a judge.
        density: ``[neurons]``, the share of the images on which each is active.
        population: Mean cosine of all pairs of images, by MonoSemanticity's judge.
        redundancy: ``[neurons]``, the largest cosine of each decoder row with another one.
        spatial: None if the tokens have no place in the image.
    """

    naming: dict[str, Naming]
    density: Tensor
    activity: dict[str, Tensor]
    active: dict[str, Tensor]
    reconstruction: dict[str, float]
    monosemanticity: Tensor
    population: float
    uniqueness: Overlaps
    redundancy: Tensor
    spatial: Coherence | None = None
    truth: GroundTruthScores | None = None
    kinds: CommonKinds | None = None
    ancestor_depth: np.ndarray | None = None
    downstream: dict[str, float] | None = None


def neuron_table(
    measured: Measurements,
    groups: np.ndarray,
    concepts: Mapping[str, ConceptSet],
    truth: Truth | None,
    designated: Sequence[str] = (),
) -> pd.DataFrame:
    """One row per neuron: docs/neuron-table.md.

    Args:
        measured: Results of the metrics.
        groups: ``[neurons]``, the group of each neuron.
        concepts: Concept sets by name; the first one names the neurons.
        truth: Labels of the images.
        designated: Concepts of a bottleneck; the last neurons were trained for them.
    """
    neurons = np.arange(len(groups))
    columns: dict[str, Any] = {
        "neuron": neurons,
        "kind": np.where(neurons < len(groups) - len(designated), "sae", "cb"),
        **_naming_columns(measured, concepts),
        "monosemanticity": measured.monosemanticity.numpy(),
        "nearest_overlap": measured.uniqueness.nearest,
        "nearest_neuron": measured.uniqueness.partner,
        "top_images": measured.uniqueness.images,
        "group": groups,
        "redundancy": measured.redundancy.numpy(),
        **activity_columns(measured.activity, measured.density),
    }
    if measured.spatial is not None:
        columns["spatial_coherence"] = measured.spatial.score.numpy()
    if measured.kinds is not None:
        columns |= {
            "covered_concepts": measured.kinds.concepts,
            "common_kind": pd.Series(measured.kinds.kind, dtype=object),
            "common_height": measured.kinds.height,
            "common_coverage": measured.kinds.coverage,
            "ancestor_depth": measured.ancestor_depth,
        }
    if measured.truth is not None and truth is not None and truth.labels:
        columns |= _truth_columns(columns["name"], measured.density.numpy() > 0, measured.truth, truth)
    if designated:
        columns |= _designated_columns(columns["names"], measured.truth, truth, designated)
        columns["designated_score"] = _own_scores(measured)
    return rows_of(columns)


def _naming_columns(measured: Measurements, concepts: Mapping[str, ConceptSet]) -> dict[str, Any]:
    """Columns of the names of neurons by the first concept set, and of what they are worth; empty without a judge."""
    neurons, alive = len(measured.density), measured.density.numpy() > 0
    if not measured.naming:
        unknown = np.full(neurons, np.nan)
        no_names = name_columns([], torch.empty(neurons, 0), torch.empty(neurons, 0), alive)
        return {"score": unknown, "interpretability": unknown, "null_percentile": unknown, **no_names}
    naming, vocabulary = next(iter(measured.naming.values())), next(iter(concepts.values()))
    best = naming.scores[:, 0].double().numpy()
    return {
        "score": np.where(alive, best, 0.0),
        "interpretability": to_unit_interval(np.where(alive, best, np.nan)),
        "null_percentile": np.where(alive, naming.percentile.numpy(), 0.0),
        **name_columns(vocabulary, naming.concepts, naming.scores, alive),
    }


def _own_scores(measured: Measurements) -> np.ndarray:
    """Scores of neurons for the concepts that they were trained for; NaN for others, and without a judge."""
    own = next((naming.own.double().numpy() for naming in measured.naming.values()), np.nan)
    return np.where(measured.density.numpy() > 0, own, np.nan)


def name_columns(
    vocabulary: ConceptSet | Sequence[str], concepts: Tensor, scores: Tensor, alive: np.ndarray | Tensor
) -> dict[str, list]:
    """Columns of the names of neurons that are alive: their concepts and scores ``[neurons, count]``, best first."""
    names = [[vocabulary[i] for i in row] if ok else [] for row, ok in zip(concepts.tolist(), alive)]
    return {
        "name": [row[0] if row else None for row in names],
        "names": names,
        "scores": [row if ok else [] for row, ok in zip(scores.tolist(), alive)],
    }


def activity_columns(activity: Mapping[str, Tensor], density: Tensor) -> dict[str, Any]:
    """Columns of what neurons do on tokens, see :class:`NeuronActivity`, and of the share of images, ``density``."""
    histograms, edges = zip(*map(occupied_bins, activity["histogram"]))
    shares = {"token_density": activity["density"].numpy(), "density": density.numpy()}
    return {
        **shares,
        **{name: activity[name].numpy() for name in ("max", "p99", "p50")},
        "histogram": histograms,
        "histogram_low": edges,
        "status": [status(*pair) for pair in zip(*shares.values())],
    }


def _designated_columns(
    names: Sequence[Sequence[str]], scores: GroundTruthScores | None, truth: Truth | None, designated: Sequence[str]
) -> dict[str, Any]:
    """Columns of a bottleneck's neurons: their concepts, whether those are their names, and the detection of them."""
    first = len(names) - len(designated)
    precision = np.full(len(names), np.nan)
    if scores is not None and truth is not None:
        column = {label: i for i, (_, label) in reversed(list(enumerate(truth.labels)))}
        for neuron, name in enumerate(designated, first):
            if name in column:
                precision[neuron] = scores.average_precision[neuron, column[name]]
    nothing, own = [None] * first, list(zip(names[first:], designated))
    return {
        "designated": [*nothing, *designated],
        "designated_first": [*nothing, *(five[:1] == [name] for five, name in own)],
        "designated_among_five": [*nothing, *(name in five for five, name in own)],
        "designated_ap": precision,
    }


def _truth_columns(
    names: Sequence[str | None], alive: np.ndarray, scores: GroundTruthScores, truth: Truth
) -> dict[str, Any]:
    """The label that each neuron predicts best, by average precision above chance, and the best of each family."""
    rows, best = np.arange(len(names)), np.nan_to_num(scores.lift(), nan=-np.inf).argmax(1)
    families, labels = (np.array(part, dtype=object)[best] for part in zip(*truth.labels))
    agree = [None if name is None else same_name(name, label) for name, label in zip(names, labels)]
    columns = {
        "truth": np.where(alive, labels, None),
        "truth_family": np.where(alive, families, None),
        "truth_ap": np.where(alive, scores.average_precision[rows, best], np.nan),
        "truth_auroc": np.where(alive, scores.auroc[rows, best], np.nan),
        "truth_agrees": np.array(agree, dtype=object),
    }
    for family in truth.families:
        precision = np.nan_to_num(scores.average_precision[:, truth.columns(family)])
        columns[f"ap_{family}"] = np.where(alive, precision.max(1, initial=0.0), np.nan)
    return columns


def label_table(scores: GroundTruthScores | None, truth: Truth | None) -> pd.DataFrame | None:
    """The best neuron of each label, by average precision and by AUROC; None if nothing is known."""
    if scores is None or truth is None or not truth.labels:
        return None
    families, labels = zip(*truth.labels)
    by_ap, by_auroc = (np.nan_to_num(part, nan=-1.0).argmax(0) for part in (scores.average_precision, scores.auroc))
    columns = np.arange(len(labels))
    return pd.DataFrame(
        {"family": families, "label": labels, "prevalence": scores.prevalence,
         "neuron": by_ap, "ap": scores.average_precision[by_ap, columns],
         "auroc_neuron": by_auroc, "auroc": scores.auroc[by_auroc, columns]}
    )  # fmt: skip


def summary_of(
    measured: Measurements,
    frame: pd.DataFrame,
    concepts: Mapping[str, ConceptSet],
    truth: Truth | None,
    grid: tuple[int, int] | None,
) -> dict[str, Any]:
    """Figures of the whole model, of its neuron table ``frame``; arguments as :func:`neuron_table`.

    ``grid`` are rows and columns of the patches, if these are among the tokens.
    """
    overlaps = measured.uniqueness
    summary = {
        "reconstruction": measured.reconstruction,
        "shares": {state: mean(frame["status"] == state) for state in ("dead", "rare", "dense", "alive")},
        "l0": _l0(measured.active, grid),
        "interpretability": _interpretability(measured, frame),
        "coverage": {
            name: {"sha256": names.sha256, **_coverage(measured.naming[name], len(names))}
            for name, names in concepts.items()
        },
        "monosemanticity": {
            "population": measured.population,
            **describe(frame["monosemanticity"]),
            "by_group": [describe(part) for _, part in frame.groupby("group")["monosemanticity"]],
        },
        "uniqueness": {
            "pairs": int(overlaps.pairs.sum()),
            "mean_jaccard": overlaps.mean(),
            "share_overlapping": overlaps.share_above(0),
            "share_above_half": overlaps.share_above(0.5),
            "left_out": overlaps.left_out,
        },
        "redundancy": describe(frame["redundancy"]),
    }
    if measured.spatial is not None:
        summary["spatial"] = describe(frame["spatial_coherence"])
    if measured.kinds is not None:
        summary["hierarchy"] = _hierarchy(frame)
    if measured.downstream is not None:
        summary["downstream"] = measured.downstream
    if measured.truth is not None and truth is not None and truth.labels:
        summary["truth"] = _agreement(frame, measured.truth, truth)
    return summary


def _interpretability(measured: Measurements, frame: pd.DataFrame) -> dict[str, Any]:
    if not measured.naming:
        unknown = ("mean_score", "mean_score_of_chance", "share_above_chance", "distinct_names")
        return {**dict.fromkeys(unknown, math.nan), "sure": SURE}
    naming, names = next(iter(measured.naming.values())), frame["name"].dropna()
    return {
        "mean_score": mean(frame.loc[frame["status"] != "dead", "score"]),
        "mean_score_of_chance": mean(naming.chance[naming.density > 0]),
        "share_above_chance": mean(frame["null_percentile"] >= SURE),
        "distinct_names": names.nunique() / len(names) if len(names) else math.nan,
        "sure": SURE,
    }


def _l0(active: Mapping[str, Tensor], grid: tuple[int, int] | None) -> dict[str, Any]:
    histogram = active["histogram"].tolist()
    last = max(i for i, count in enumerate(histogram) if count)
    # CLS and registers, where they are among the tokens, come first.
    patches = None if grid is None else active["by_token"][-grid[0] * grid[1] :].reshape(grid).tolist()
    return {
        "histogram": {"edges": list(range(last + 2)), "counts": histogram[: last + 1]},
        "patch_map": patches and [[round(value, 3) for value in row] for row in patches],
    }


def _coverage(naming: Naming, total: int) -> dict[str, Any]:
    """Coverage: the concepts that are some neuron's name, all of them and those whose name is above chance."""
    concepts = np.where(naming.density.numpy() > 0, naming.concepts[:, 0].numpy(), -1)
    best = best_by_concept(concepts, naming.percentile.numpy(), total)
    thresholds = np.linspace(0, 1, 101).round(2)
    by_threshold = {"thresholds": thresholds.tolist(), "share": coverage(best, thresholds).tolist()}
    shares = {"share": float(coverage(best)), "share_above_chance": float(coverage(best, SURE))}
    return {"concepts": total, "named": int((best > -np.inf).sum()), **shares, "by_threshold": by_threshold}


def _hierarchy(frame: pd.DataFrame) -> dict[str, Any]:
    """Generality of neurons: those of several concepts (Olson et al.), and the depth of top images (Pach et al.)."""
    several = frame[frame["common_height"].notna()]
    return {
        "neurons_of_several_concepts": len(several),
        "mean_height": mean(several["common_height"]),
        "mean_coverage": mean(several["common_coverage"]),
        "coverage_above_75": int((several["common_coverage"] > 0.75).sum()),
        "coverage_above_99": int((several["common_coverage"] > 0.99).sum()),
        "ancestor_depth": describe(frame["ancestor_depth"]),
        "ancestor_depth_by_group": [describe(part) for _, part in frame.groupby("group")["ancestor_depth"]],
    }


def _agreement(frame: pd.DataFrame, scores: GroundTruthScores, truth: Truth) -> dict[str, Any]:
    """Agreement of names with the truth, detected labels, and detected kinds of labels beside those of the names."""
    rows, detected = frame[frame["truth"].notna()], {}
    clear = rows[rows["truth_ap"] >= CLEAR]
    for family in truth.families:
        best = np.nan_to_num(scores.average_precision[:, truth.columns(family)]).max(0, initial=0.0)
        counts = {"labels": len(best), "too_rare": truth.too_rare[family]}
        detected[family] = {**counts, "detected": mean(best >= CLEAR), "mean_best_ap": mean(best)}
    claims = rows["name"].map({name: family for family, name in reversed(truth.labels)}).fillna("none")
    return {
        "name_agreement": mean(rows["truth_agrees"].dropna()),
        "name_agreement_clear": mean(clear["truth_agrees"].dropna()),
        "clear_share": len(clear) / max(1, len(rows)),
        "best_ap_mean": mean(rows["truth_ap"]),
        "labels": detected,
        "detects_by_claim": pd.crosstab(claims, rows["truth_family"]).to_dict("index"),
    }


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures to look at first, by name."""
    places = {
        "explained variance": ("reconstruction", "explained_variance"),
        "L0": ("reconstruction", "l0"),
        "dead share": ("shares", "dead"),
        "names above chance": ("interpretability", "share_above_chance"),
        "MonoSemanticity, mean": ("monosemanticity", "mean"),
        "MonoSemanticity of chance": ("monosemanticity", "population"),
        "neighbours that overlap": ("uniqueness", "share_overlapping"),
        "zero-shot accuracy": ("downstream", "accuracy_original"),
        "zero-shot, reconstructed": ("downstream", "accuracy_reconstructed"),
        "names that are right": ("truth", "name_agreement"),
        "  where truth is clear": ("truth", "name_agreement_clear"),
        "  share of such neurons": ("truth", "clear_share"),
    }
    figures = {name: summary.get(part, {}).get(key) for name, (part, key) in places.items()}
    return {name: value for name, value in figures.items() if value is not None}


def origin_of(model: object) -> dict[str, Any] | None:
    """Id and revision of a judge or generator; None if there is none."""
    if model is None:
        return None
    return {"id": getattr(model, "repo_id", None), "revision": getattr(model, "revision", None)}


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Mean, median, best and worst of the defined values, and the number of the others."""
    everything = np.asarray(values, dtype=np.float64)
    defined = everything[~np.isnan(everything)]
    rules: dict[str, Callable[[Any], float]] = {"mean": np.mean, "median": np.median, "best": np.max, "worst": np.min}
    summary = {name: float(rule(defined)) if len(defined) else math.nan for name, rule in rules.items()}
    return {**summary, "n": len(values), "undefined": len(everything) - len(defined)}


def mean(values: ArrayLike) -> float:
    """The mean; NaN of nothing."""
    numbers = np.asarray(values, dtype=np.float64)
    return float(numbers.mean()) if len(numbers) else math.nan
