"""The loss of a model downstream when the SAE's reconstruction takes the place of the activations.

Zero-shot accuracy as in the CB-SAE paper, and cross-entropy with the share recovered as in ViT-Prisma (Joseph et al.,
2025), there without the logit scale, which leaves all classes nearly equally likely; here with it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric

CONDITIONS = ("original", "reconstructed", "zeroed")


class DownstreamCost(StreamingMetric):
    """Accuracy and cross-entropy with the original activations, with reconstructed ones, and with zeros in place."""

    hits: Tensor
    entropy: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(torch.float64, hits=len(CONDITIONS), entropy=len(CONDITIONS))
        self.add_sums(torch.int64, images=())

    def update(self, targets: Tensor, **logits: Tensor) -> None:
        """Adds a batch.

        Args:
            targets: ``[images]`` int64, the right class; -1 for images that do not count.
            **logits: ``original``, ``reconstructed`` and ``zeroed``, each ``[images, classes]``.

        Raises:
            ValueError: If a condition is missing, or logits are not finite.
        """
        if set(logits) != set(CONDITIONS):
            raise ValueError(f"logits of {', '.join(CONDITIONS)} are needed, got {', '.join(logits)}")
        counts = targets >= 0
        for row, name in enumerate(CONDITIONS):
            values = logits[name][counts].double()
            if not values.isfinite().all():
                raise ValueError(f"{name} logits are NaN or infinite")
            self.hits[row] += (values.argmax(1) == targets[counts]).sum()
            self.entropy[row] += F.cross_entropy(values, targets[counts], reduction="sum")
        self.images += counts.sum()

    def compute(self) -> dict[str, float]:
        """``accuracy_*`` (0..1) and ``cross_entropy_*`` (nats) per condition, and the shares ``*_recovered``.

        Recovered is 1 if reconstructions do as well as the originals and 0 if no better than zeros; NaN where zeros do
        as well as the originals. All NaN without images.
        """
        n = self.images.double()
        result: dict[str, float] = {}
        for kind, sums in (("accuracy", self.hits), ("cross_entropy", self.entropy)):
            original, reconstructed, zeroed = means = (sums / n).tolist()
            result |= {f"{kind}_{name}": value for name, value in zip(CONDITIONS, means)}
            gap = original - zeroed
            result[f"{kind}_recovered"] = (reconstructed - zeroed) / gap if gap else float("nan")
        return result
