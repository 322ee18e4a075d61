"""All scores of a model's neurons: from one pass over a set of images, and from steering a generator."""

from cbsae_hub.scoring.report import headline
from cbsae_hub.scoring.scorer import NeuronScorer
from cbsae_hub.scoring.scores import Scores
from cbsae_hub.scoring.truth import Truth

__all__ = ["NeuronScorer", "Scores", "Truth", "headline"]
