"""Scores of neurons: classes over streams of batches, and plain functions of whole matrices."""

from cbsae_hub.metrics.absorption import Absorption, AbsorptionScores, absorption
from cbsae_hub.metrics.activity import ActiveLatents, NeuronActivity, Reconstruction
from cbsae_hub.metrics.alignment import Alignment, human_alignment, read_pairs
from cbsae_hub.metrics.coalitions import Coalitions, CoalitionScores, coalition_activity, coalitions
from cbsae_hub.metrics.collateral import CollateralDamage, CollateralScores, ConceptProbes, Probes, collateral_damage
from cbsae_hub.metrics.coverage import best_by_concept, coverage
from cbsae_hub.metrics.detection import detection_score, draw_trials
from cbsae_hub.metrics.dictionary import Stability, moved, redundancy, seed_stability
from cbsae_hub.metrics.directions import (
    DirectionMatch,
    DirectionScores,
    TrueDirections,
    direction_scores,
    true_directions,
)
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
from cbsae_hub.metrics.interventions import Interventions, InterventionScores, interventions
from cbsae_hub.metrics.latents import mean_over_tokens
from cbsae_hub.metrics.linear_explanation import LinearExplanations, explain_linearly
from cbsae_hub.metrics.localisation import Localisation, LocalisationScores, box_cover, localisation
from cbsae_hub.metrics.monosemanticity import MonosemanticityScore, monosemanticity_score
from cbsae_hub.metrics.normalise import to_unit_interval
from cbsae_hub.metrics.outliers import OutlierSeverity, outlier_severity
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.metrics.siblings import SiblingScores, siblings
from cbsae_hub.metrics.similarities import cosine, cosine_cubed, rank_reorder
from cbsae_hub.metrics.simulation import Simulation, simulate_names
from cbsae_hub.metrics.soft_wpmi import soft_wpmi
from cbsae_hub.metrics.sparse_probing import (
    ClassProbingScores,
    SparseProbing,
    SparseProbingScores,
    class_probing,
    sparse_probing,
)
from cbsae_hub.metrics.spatial import Coherence, SpatialCoherence, morans_i
from cbsae_hub.metrics.splitting import Splits, Splitting, splitting
from cbsae_hub.metrics.spurious import find_features
from cbsae_hub.metrics.switches import Switches, SwitchScores, switches
from cbsae_hub.metrics.top_images import TopImages
from cbsae_hub.metrics.transfer import ActiveNeurons, Preservation, Transfer, preservation, transfer
from cbsae_hub.metrics.uniqueness import Overlaps, Uniqueness, overlaps
from cbsae_hub.metrics.words import WordScore, word_scores

__all__ = [
    "Absorption", "AbsorptionScores", "ActiveLatents", "ActiveNeurons", "Alignment", "ClassProbingScores",
    "CoalitionScores", "Coalitions", "Coherence", "CollateralDamage", "CollateralScores", "CommonAncestorDepth",
    "CommonKinds", "ConceptProbes", "DirectionMatch", "DirectionScores", "Dissector", "DownstreamCost",
    "GroundTruth", "GroundTruthScores", "HierarchyScore", "InterventionScores", "Interventions", "LinearEraser",
    "LinearExplanations", "Localisation", "LocalisationScores", "MonosemanticityScore", "Naming", "NeuronActivity",
    "OutlierSeverity", "Overlaps", "Preservation", "Probes", "Reconstruction", "SiblingScores", "Simulation",
    "SparseProbing", "SparseProbingScores", "SpatialCoherence", "Splits", "Splitting", "Stability", "SwitchScores",
    "Switches", "TopImages", "Transfer", "TrueDirections", "Uniqueness", "WordScore", "absorption",
    "best_by_concept", "box_cover", "class_probing", "coalition_activity", "coalitions", "collateral_damage",
    "common_ancestor_depth", "common_kinds", "cosine", "cosine_cubed", "coverage", "detection_score",
    "direction_scores", "draw_trials", "explain_linearly", "find_features", "ground_truth_scores",
    "human_alignment", "interventions", "label_matrix", "leace", "localisation", "mean_over_tokens",
    "monosemanticity_score", "morans_i", "moved", "outlier_severity", "overlaps", "preservation", "quadrants",
    "rank_reorder", "read_pairs", "redundancy", "seed_stability", "siblings", "simulate_names", "soft_wpmi",
    "sparse_probing", "splitting", "switches", "to_unit_interval", "transfer", "true_directions", "word_scores",
]  # fmt: skip
