"""Outlier severity of activations: how much longer their mean is than their deviation."""

import torch
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric


def outlier_severity(x: Tensor) -> float:
    """``|mean| / sqrt(sum of variances)`` of activations ``[n, d]``; NaN if they do not vary.

    The larger, the more neurons of an SAE that starts at 0 point away from all data, and stay dead; centred activations
    have 0 (arXiv 2605.31518, where it ranks models and layers by their share of dead neurons with a correlation of
    0.89).
    """
    metric = OutlierSeverity(x.shape[1]).to(x.device)
    metric.update(x)
    return metric.compute()


class OutlierSeverity(StreamingMetric):
    """:func:`outlier_severity` over a stream of batches.

    Args:
        d_in: Width of the activations.
    """

    total: Tensor
    squares: Tensor
    tokens: Tensor

    def __init__(self, d_in: int):
        super().__init__()
        self.add_sums(torch.float64, total=d_in, squares=())
        self.add_sums(torch.int64, tokens=())

    def update(self, x: Tensor) -> None:
        """Adds activations ``[n, d_in]``."""
        self.total += x.double().sum(0)
        self.squares += x.double().square().sum()
        self.tokens += len(x)

    def compute(self) -> float:
        """The severity; NaN if there are no tokens, or they do not vary."""
        mean = self.total / self.tokens
        variance = float(self.squares / self.tokens - mean.square().sum())
        return float(mean.norm()) / variance**0.5 if variance > 0 else float("nan")
