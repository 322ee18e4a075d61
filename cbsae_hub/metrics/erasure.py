"""The linear direction of an attribute, and activations without it: LEACE in closed form.

After "LEACE: Perfect linear concept erasure in closed form" (Belrose et al., 2023), theorem 4.3, for one attribute that
is there or not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric

RELATIVE_RANK = 1e-8  # of eigenvalues of the covariance: what is below the largest by this counts as no direction


@dataclass(frozen=True)
class LinearEraser:
    """Activations lose what a linear model could read of an attribute: ``x - ((x - mean) . readout) direction``.

    With covariance S of the activations and their covariance c with the attribute, ``direction`` is c and ``readout``
    is S^+ c / (c^T S^+ c): of all affine maps after which no linear model predicts the attribute, the one that moves
    activations least.

    Attributes:
        mean: ``[d]``, mean activation.
        direction: ``[d]``, the direction along which activations move.
        readout: ``[d]``, weights that read how far.
    """

    mean: Tensor
    direction: Tensor
    readout: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Activations ``[..., d]`` without the attribute, in their dtype."""
        mean, direction, readout = (one.to(x.device, x.dtype) for one in (self.mean, self.direction, self.readout))
        return x - ((x - mean) @ readout)[..., None] * direction


def leace(x: Tensor, attribute: Tensor) -> LinearEraser:
    """Fits the eraser of an attribute.

    Args:
        x: Activations ``[n, d]``.
        attribute: ``[n]`` bool: whether the attribute is there.

    Raises:
        ValueError: See :meth:`AttributeErasure.compute`.
    """
    erasure = AttributeErasure(x.shape[-1]).to(x.device)
    erasure.update(x, attribute)
    return erasure.compute()


class AttributeErasure(StreamingMetric):
    """Fits the eraser of an attribute batch by batch.

    Args:
        width: Width d of the activations.
    """

    sums: Tensor
    squares: Tensor
    counts: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.add_sums(torch.float64, sums=(2, width), squares=(width, width))
        self.add_sums(torch.int64, counts=2)

    def update(self, x: Tensor, attribute: Tensor) -> None:
        """Adds activations ``[n, d]`` with their attribute ``[n]`` bool."""
        sides = torch.stack([~attribute.bool(), attribute.bool()]).to(x.device)
        double = x.double()
        self.sums += sides.double() @ double
        self.squares += double.T @ double
        self.counts += sides.sum(1)

    def compute(self) -> LinearEraser:
        """The eraser.

        Raises:
            ValueError: If all activations have the attribute, or none; or their means do not differ at all.
        """
        if not self.counts.all():
            raise ValueError("all activations have the attribute, or none: there is no direction between them")
        n = self.counts.sum()
        mean = self.sums.sum(0) / n
        covariance = self.squares / n - mean.outer(mean)
        shares = self.counts / n
        present, absent = self.sums[1] / self.counts[1], self.sums[0] / self.counts[0]
        direction = shares[0] * shares[1] * (present - absent)
        weights = torch.linalg.pinv(covariance, rtol=RELATIVE_RANK, hermitian=True) @ direction
        strength = direction @ weights
        if strength <= 0:
            raise ValueError("activations with the attribute have the same mean as those without it: nothing to erase")
        return LinearEraser(mean, direction, weights / strength)
