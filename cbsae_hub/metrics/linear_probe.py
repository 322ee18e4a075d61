"""Linear probes: multinomial logistic regression on features that are read in blocks.

The solver is L-BFGS on all images at once, so that probes of different features differ in their features alone. It
finds scikit-learn's weights (``C = 1 / (l2 * images)``); ``benchmarks/linear_probe.py`` compares the times.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

BLOCK = 8192  # tokens
IN_MEMORY = 2**28  # numbers; features of more are computed again in every pass
STRENGTHS = (1e-1, 1e-2, 1e-3)
MAX_STEPS = 100
FLAT = 64 * np.finfo(float).eps  # a relative gain at which the search ends


class Features:
    """Features of images, computed from their activations block by block, and kept if they are few.

    Args:
        rows: ``[images, tokens, d_in]``.
        transform: Makes features ``[images, tokens, width]`` of them. The mean over tokens is the image's.
    """

    def __init__(self, rows: Tensor, transform: Callable[[Tensor], Tensor] = lambda rows: rows):
        self._rows, self._transform = rows, transform
        self._cache: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, images: Tensor) -> "Features":
        """The features of some images."""
        return Features(self._rows[images], self._transform)

    def blocks(self) -> Iterator[Tensor]:
        """The features, ``[images, width]`` float32 or float64, in order."""
        if self._cache is not None:
            yield from self._cache
            return
        cache: list[Tensor] = []
        for block in self._make():
            if block.shape[1] * len(self) <= IN_MEMORY:
                cache.append(block)
            yield block
        self._cache = cache or None

    @torch.no_grad()
    def _make(self) -> Iterator[Tensor]:
        for rows in self._rows.split(max(1, BLOCK // self._rows.shape[1])):
            rows = rows if rows.dtype == torch.float64 else rows.float()
            yield self._transform(rows).mean(1)


@dataclass(frozen=True)
class LinearProbe:
    """A classifier of features.

    Attributes:
        weight: ``[classes, width]``, of the features themselves.
        bias: ``[classes]``.
        standard: ``[classes, width + 1]``: weights and bias of the standardised features, which L2 holds small.
        l2: How strongly.
    """

    weight: Tensor
    bias: Tensor
    standard: Tensor
    l2: float

    def logits(self, features: Features) -> Tensor:
        """``[images, classes]``."""
        return torch.cat([block @ self.weight.T + self.bias for block in features.blocks()])


@torch.no_grad()
def fit_probe(
    features: Features,
    targets: Tensor,
    classes: int,
    l2: float,
    start: LinearProbe | None = None,
    max_steps: int = MAX_STEPS,
    tolerance: float = 1e-4,
) -> LinearProbe:
    """Minimises ``mean cross-entropy + l2 / 2 * |W|**2`` over weights of the standardised features; biases are free.

    Args:
        features: Features of the images.
        targets: ``[images]`` int64, the class of each.
        classes: Number of classes.
        l2: Weight of the penalty.
        start: A probe of the same features to start from.
        max_steps: Steps at most; one takes a pass over the images or two.
        tolerance: The largest entry of the gradient at which the search ends.

    Raises:
        ValueError: If there is no image, or not one target for each.
    """
    if not len(features) or len(features) != len(targets):
        raise ValueError(f"a probe needs a target for each image, got {len(targets)} for {len(features)}")
    mean, scale = _moments(features)
    count, targets = len(features), targets.to(mean.device)

    def natural(weights: Tensor) -> tuple[Tensor, Tensor]:
        weight = weights[:, :-1] / scale
        return weight, weights[:, -1] - weight @ mean

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).to(mean).view(classes, -1)
        weight, bias = natural(weights)
        loss, gradient = l2 / 2 * weights[:, :-1].square().sum(), torch.zeros_like(weights)
        gradient[:, :-1] = l2 * weights[:, :-1]
        first = 0
        for block in features.blocks():
            own = targets[first : first + len(block), None]
            first += len(block)
            logits = torch.addmm(bias, block, weight.T).log_softmax(1)
            loss -= logits.gather(1, own).sum() / count
            error = logits.exp_().scatter_add_(1, own, logits.new_full(own.shape, -1.0)).div_(count)
            total = error.sum(0)
            gradient[:, :-1] += (error.T @ block - total[:, None] * mean) / scale
            gradient[:, -1] += total
        return float(loss), gradient.double().cpu().numpy().ravel()

    first = np.zeros(classes * (len(mean) + 1)) if start is None else start.standard.double().cpu().numpy().ravel()
    options = {"maxiter": max_steps, "gtol": tolerance, "ftol": FLAT, "maxls": 50}
    best = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    weights = torch.from_numpy(best.x).to(mean).view(classes, -1)
    return LinearProbe(*natural(weights), weights, l2)


def search_probe(
    features: Features,
    targets: Tensor,
    classes: int,
    chosen_on: Tensor,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """The probe whose penalty classifies most of the images right that it was not fitted on.

    Args:
        features: Features of the images.
        targets: ``[images]`` int64.
        classes: Number of classes.
        chosen_on: ``[images]`` bool: the images that the penalty is chosen on; the others are fitted.
        strengths: The penalties. The strongest comes first, each of the others starts from its predecessor; of equally
            good ones the strongest is taken.

    Raises:
        ValueError: See :func:`fit_probe`.
    """
    fitted, others = features.of(~chosen_on), features.of(chosen_on)
    best, most, probe = None, -1.0, None
    for l2 in sorted(strengths, reverse=True):
        probe = fit_probe(fitted, targets[~chosen_on], classes, l2, probe)
        right = float((probe.logits(others).argmax(1).cpu() == targets[chosen_on]).float().mean())
        if right > most:
            best, most = probe, right
    assert best is not None
    return best


def _moments(features: Features) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; that of a constant one is 1."""
    mean = torch.stack([block.sum(0) for block in features.blocks()]).sum(0) / len(features)
    squares = torch.stack([(block - mean).square().sum(0) for block in features.blocks()]).sum(0) / len(features)
    return mean, torch.where(squares > 0, squares.sqrt(), 1.0)
