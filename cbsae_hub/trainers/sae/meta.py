"""A meta-SAE: a small SAE of the rows of another SAE's decoder."""

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae.state import SAEState
from cbsae_hub.trainers.sae.trainer import evaluate_sae

STEPS, BATCH = 1500, 1024
SHARE = 4  # of the neurons, a quarter
K = 4
LR = 5e-4


def meta_explained_variance(rows: Tensor, seed: int = 0, steps: int = STEPS) -> float:
    """The share of the variance of decoder rows that a meta-SAE explains: the lower, the more atomic the neurons.

    Rows that few directions put together are compositions of these. The recipe is that of SAEBench (Karvonen et al.,
    2025; Leask et al., arXiv 2502.04878, have the idea): BatchTopK with a quarter of the neurons, k = 4, 1,500 steps of
    1,024 rows at a learning rate of 5e-4. The rows are of length 1, and those that it is trained on.

    Args:
        rows: ``[neurons, d]``, of any length but 0; at least 16.
        seed: Seed of the weights and of the batches.
        steps: Steps of the training.

    Raises:
        ValueError: If there are fewer than 16 rows, which a meta-SAE would know by heart.
    """
    width = len(rows) // SHARE
    if width < K:
        raise ValueError(f"a meta-SAE needs {SHARE * K} neurons or more, got {len(rows)}")
    units = F.normalize(rows.detach().float(), dim=1)
    config = SAETrainConfig(d_sae=width, k=K, group_fractions=None, lr=LR, steps=steps, warmup_steps=0, seed=seed,
                            dead_after_tokens=50 * BATCH, threshold_start=steps)  # fmt: skip
    sae = SAE(units.shape[1], width, "batch_topk", K, seed=seed).to(units.device)
    sae.b_dec.data.copy_(units.mean(0))
    state, generator = SAEState(sae, config), torch.Generator().manual_seed(seed)
    for _ in tqdm(range(steps), desc="meta-SAE", unit="step", leave=False):
        state.update(units[torch.randint(len(units), (BATCH,), generator=generator)])
    sae.calibrate_threshold(units)
    return evaluate_sae(sae, units.split(BATCH)).explained_variance
