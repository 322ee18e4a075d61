"""``cbsae explain`` on splits: an SAE learns on some cut-outs, its neurons are named by others."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.images import image_batches
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pipeline.explain import Explanation
from cbsae_hub.scoring import NeuronScorer, Scores
from training.photo_world.judges import Captions


@dataclass
class PhotoExplanation(Explanation):
    """The work on a question whose names are those of captions.

    Args:
        similarity: ``images -> [images, d]``, the judge of MonoSemanticity.
    """

    similarity: Callable[[list[Image.Image]], Tensor] | None = None

    @cached_property
    def judge(self) -> Captions:
        """The judge of names."""
        return Captions.load()

    @cached_property
    def embeddings(self) -> Tensor:
        """Embeddings of the captions, ``[images, e]``."""
        return self.judge.embed_texts(self.collection.images[self.collection.captions])

    @cached_property
    def looks(self) -> Tensor:
        """Embeddings of the pictures by the judge of MonoSemanticity, ``[images, d]``."""
        total = -(-len(self.collection.images) // self.batch_size)
        batches = image_batches(self.collection.images, self.batch_size)
        bar = tqdm(batches, total=total, desc="similarity", unit="batch")
        return torch.cat([self.similarity(pictures) for _, pictures in bar])

    def measure(self, model: SAE | CBSAE) -> Scores:
        """Scores the neurons of a model."""
        sets = {"concepts": self.concepts}
        options = {"similarity": self.similarity, "truth": self.truth, "top_k": self.top_k}
        scorer = NeuronScorer(model, self.encoder, self.judge, sets, **options)
        scorer.run_stored(self.store, self.embeddings, self.batch_size, similarity=self.looks)
        return scorer.results()
