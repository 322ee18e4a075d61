"""A look at stored activations before an SAE is trained on them: is their mean so long that neurons will be dead?"""

from typing import NamedTuple

import torch
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.metrics.outliers import outlier_severity
from cbsae_hub.models import SAE
from cbsae_hub.trainers.config import SAETrainConfig

TOKENS = 8192
"""Rows that are looked at, at most."""
PLAINLY = 0.1  # difference of two shares that is told as a doubt


class Start(NamedTuple):
    """The activations, and the SAE before its first step."""

    severity: float
    """See :func:`cbsae_hub.metrics.outliers.outlier_severity`."""
    silent: float
    """Share of the neurons that none of the tokens has among its k strongest, if ``b_dec`` starts at 0."""
    silent_centred: float
    """The same if ``b_dec`` starts at the mean: what is left is for lack of tokens."""

    def doubt(self, config: SAETrainConfig) -> str | None:
        """A sentence if the settings leave neurons dead that centring would not."""
        if config.b_dec_init != "zero" or self.silent - self.silent_centred < PLAINLY:
            return None
        return (
            f"b_dec_init zero: the mean of the activations is {self.severity:.1f} times as long as their deviation, so "
            f"that {self.silent:.0%} of the neurons start silent, and {self.silent_centred:.0%} with b_dec_init mean"
        )

    def __str__(self) -> str:
        return (
            f"mean of the activations {self.severity:.1f} times their deviation: {self.silent:.0%} of the neurons "
            f"start silent without b_dec, {self.silent_centred:.0%} with it"
        )


@torch.no_grad()
def look_at_start(store: ActivationStore, config: SAETrainConfig) -> Start:
    """Looks at the first random tokens of a store, and at which neurons of an SAE with these settings they excite.

    The share of neurons that start silent is the share of dead ones that the outlier severity predicts: what no token
    excites gets no gradient.

    Args:
        store: The activations.
        config: Settings of the training.
    """
    x = next(store.batches(min(TOKENS, len(store)), config.seed, 0))
    sae = SAE(store.d_in, config.neurons(store.d_in), "topk", config.k, seed=config.seed)
    silent = _silent_share(sae, x)
    sae.b_dec.copy_(x.mean(0))
    return Start(outlier_severity(x), silent, _silent_share(sae, x))


def _silent_share(sae: SAE, x: Tensor) -> float:
    values, neurons = sae.encode_sparse(x)
    return 1 - len(neurons[values > 0].unique()) / sae.d_sae
