"""Scores of neurons: torchmetrics classes over streams of batches, and plain functions of whole matrices."""

from cbsae_hub.metrics.activity import NeuronActivity, Reconstruction
from cbsae_hub.metrics.dissect import Dissector, cosine, cosine_cubed, rank_reorder, soft_wpmi
from cbsae_hub.metrics.ground_truth import average_precisions, label_matrix

__all__ = [
    "Dissector",
    "NeuronActivity",
    "Reconstruction",
    "average_precisions",
    "cosine",
    "cosine_cubed",
    "label_matrix",
    "rank_reorder",
    "soft_wpmi",
]
