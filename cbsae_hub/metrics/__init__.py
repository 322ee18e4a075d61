"""Scores of neurons: classes over streams of batches, and plain functions of whole matrices."""

from cbsae_hub.metrics.activity import ActiveLatents, NeuronActivity, Reconstruction
from cbsae_hub.metrics.alignment import Alignment, human_alignment, read_pairs
from cbsae_hub.metrics.coverage import best_by_concept, coverage
from cbsae_hub.metrics.dissector import Dissector, Naming
from cbsae_hub.metrics.downstream import DownstreamCost
from cbsae_hub.metrics.erasure import LinearEraser, leace
from cbsae_hub.metrics.ground_truth import GroundTruth, GroundTruthScores, ground_truth_scores, label_matrix
from cbsae_hub.metrics.hierarchy import (
    CommonAncestorDepth,
    CommonKinds,
    HierarchyScore,
    common_ancestor_depth,
    common_kinds,
)
from cbsae_hub.metrics.latents import mean_over_tokens
from cbsae_hub.metrics.monosemanticity import MonosemanticityScore, monosemanticity_score
from cbsae_hub.metrics.normalise import to_unit_interval
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.metrics.similarities import cosine, cosine_cubed, rank_reorder
from cbsae_hub.metrics.soft_wpmi import soft_wpmi
from cbsae_hub.metrics.spurious import find_features
from cbsae_hub.metrics.top_images import TopImages
from cbsae_hub.metrics.uniqueness import Overlaps, Uniqueness, overlaps
from cbsae_hub.metrics.words import WordScore, word_scores

__all__ = [
    "ActiveLatents", "Alignment", "CommonAncestorDepth", "CommonKinds", "Dissector", "DownstreamCost", "GroundTruth",
    "GroundTruthScores", "HierarchyScore", "LinearEraser", "MonosemanticityScore", "Naming", "NeuronActivity",
    "Overlaps", "Reconstruction", "TopImages", "Uniqueness", "WordScore", "best_by_concept", "common_ancestor_depth",
    "common_kinds", "cosine", "cosine_cubed", "coverage", "find_features", "ground_truth_scores", "human_alignment",
    "label_matrix", "leace", "mean_over_tokens", "monosemanticity_score", "overlaps", "quadrants", "rank_reorder",
    "read_pairs", "soft_wpmi", "to_unit_interval", "word_scores",
]  # fmt: skip
