"""A whole training step of this package, of plain PyTorch, and of three published trainers.

Each function takes the :class:`Setting`, starts from its weights, and returns ``step(x)``. A step is everything that
the trainer does per batch: forward, backward, removal of the decoder-parallel gradient and clipping (where it does
that), Adam, decoder norm, threshold, counters of dead neurons.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

GROUP_FRACTIONS = (0.0625, 0.125, 0.25, 0.5625)
LR, AUX_ALPHA, MAX_NORM = 1e-4, 0.03, 1.0
LATE_STEP = 5000  # past warm-up and past the start of threshold tracking
Step = Callable[[Tensor], None]


@dataclass
class Setting:
    """The sizes and the first weights that all trainers share."""

    d_in: int
    d_sae: int
    k: int
    batch_size: int
    dead: int
    """The last so many neurons are dead: too weak to be selected, and silent for long."""

    def __post_init__(self):
        generator = torch.Generator().manual_seed(0)
        self.W_dec = normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        self.W_enc = self.W_dec.T.clone()
        self.W_enc[:, self.d_sae - self.dead :] *= 0.01
        sizes = [int(fraction * self.d_sae) for fraction in GROUP_FRACTIONS[:-1]]
        self.group_sizes = (*sizes, self.d_sae - sum(sizes))
        self.dead_mask = torch.arange(self.d_sae) >= self.d_sae - self.dead


def floor(setting: Setting) -> Step:
    """The encoder's forward product alone."""
    return lambda x: torch.mm(x, setting.W_enc)


def cbsae_hub(setting: Setting) -> Step:
    """This package: Matryoshka BatchTopK."""
    from cbsae_hub import SAE
    from cbsae_hub.trainers.config import SAETrainConfig
    from cbsae_hub.trainers.sae.state import SAEState

    config = SAETrainConfig(
        d_sae=setting.d_sae, k=setting.k, lr=LR, auxk_alpha=AUX_ALPHA, batch_size=setting.batch_size
    )
    sae = SAE(setting.d_in, setting.d_sae, "batch_topk", setting.k, setting.group_sizes)
    sae.W_dec.data.copy_(setting.W_dec)
    sae.W_enc.data.copy_(setting.W_enc)
    state = SAEState(sae, config)
    state.step = LATE_STEP
    state.dead_neurons.silent_tokens[setting.dead_mask] = config.dead_after_tokens
    return state.update


def plain_dense(setting: Setting) -> Step:
    """Matryoshka BatchTopK as one writes it down in PyTorch, all products dense."""
    W_enc, W_dec = (torch.nn.Parameter(weights.clone()) for weights in (setting.W_enc, setting.W_dec))
    b_enc, b_dec = (torch.nn.Parameter(torch.zeros(width)) for width in (setting.d_sae, setting.d_in))
    parameters = [W_enc, b_enc, W_dec, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    silent = torch.zeros(setting.d_sae, dtype=torch.int64)
    silent[setting.dead_mask] = 10_000_000
    threshold = torch.zeros(())

    def step(x: Tensor) -> None:
        pre = torch.relu((x - b_dec) @ W_enc + b_enc)
        top = pre.flatten().topk(setting.k * len(x), sorted=False)
        latents = torch.zeros_like(pre.flatten()).scatter(0, top.indices, top.values).view_as(pre)
        parts = zip(latents.split(setting.group_sizes, dim=1), W_dec.split(setting.group_sizes))
        reconstruction, losses = b_dec, []
        for group_latents, rows in parts:
            reconstruction = reconstruction + group_latents @ rows
            losses.append((x - reconstruction).square().sum(1).mean())
        loss = sum(losses) / len(losses) ** 2
        with torch.no_grad():
            silent.add_(len(x))
            silent[(latents > 0).any(0)] = 0
            dead = silent >= 10_000_000
            threshold.lerp_(top.values.min(), 0.001)
        if dead.any():
            residual = (x - reconstruction).detach()
            among_dead = torch.where(dead, pre, -torch.inf).topk(min(setting.d_in // 2, int(dead.sum())))
            auxiliary = torch.zeros_like(pre).scatter(1, among_dead.indices, among_dead.values) @ W_dec
            variance = (residual - residual.mean(0)).square().sum(1).mean()
            loss = loss + AUX_ALPHA * (residual - auxiliary).square().sum(1).mean() / variance
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            optimizer.step()
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    return step


def dictionary_learning(setting: Setting) -> Step:
    """dictionary_learning's Matryoshka BatchTopK trainer."""
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer

    trainer = MatryoshkaBatchTopKTrainer(
        steps=10 * LATE_STEP,
        activation_dim=setting.d_in,
        dict_size=setting.d_sae,
        k=setting.k,
        layer=0,
        lm_name="",
        group_fractions=list(GROUP_FRACTIONS),
        lr=LR,
        auxk_alpha=AUX_ALPHA,
        device="cpu",
    )
    trainer.ae.W_dec.data.copy_(setting.W_dec)
    trainer.ae.W_enc.data.copy_(setting.W_enc)
    trainer.num_tokens_since_fired[setting.dead_mask] = trainer.dead_feature_threshold
    return lambda x: trainer.update(LATE_STEP, x)


def sae_lens(setting: Setting) -> Step:
    """SAELens' Matryoshka BatchTopK, in the steps of its trainer."""
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import TrainStepInput

    widths = torch.tensor(setting.group_sizes).cumsum(0).tolist()
    sae = MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=setting.d_in, d_sae=setting.d_sae, k=setting.k, matryoshka_widths=widths, device="cpu"
        )
    )
    sae.W_dec.data.copy_(setting.W_dec)
    sae.W_enc.data.copy_(setting.W_enc)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    silent_steps = torch.zeros(setting.d_sae)
    silent_steps[setting.dead_mask] = 1001

    def step(x: Tensor) -> None:
        sae.train()
        output = sae.training_forward_pass(
            TrainStepInput(
                sae_in=x,
                coefficients={},
                dead_neuron_mask=silent_steps > 1000,
                n_training_steps=LATE_STEP,
                is_logging_step=False,
            )
        )
        with torch.no_grad():
            fired = output.feature_acts.bool().float().sum(-2).bool()
            silent_steps.add_(1)
            silent_steps[fired.to_dense() if fired.is_sparse else fired] = 0
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return step


def sparsify(setting: Setting) -> Step:
    """TopK of sparsify, which has no Matryoshka; its auxiliary loss does not train the encoder."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # Triton needs a GPU
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(setting.d_in, SparseCoderConfig(num_latents=setting.d_sae, k=setting.k))
    coder.W_dec.data.copy_(setting.W_dec)
    coder.encoder.weight.data.copy_(setting.W_enc.T)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    silent = torch.zeros(setting.d_sae, dtype=torch.int64)
    silent[setting.dead_mask] = 10_000_000

    def step(x: Tensor) -> None:
        output = coder(x, dead_mask=silent >= 10_000_000)
        (output.fvu + AUX_ALPHA * output.auxk_loss).backward()
        with torch.no_grad():
            silent.add_(len(x))
            silent[output.latent_indices.flatten()] = 0
        coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        coder.set_decoder_norm_to_unit_norm()

    return step


CONTENDERS = {
    contender.__name__: contender
    for contender in (floor, cbsae_hub, sparsify, plain_dense, dictionary_learning, sae_lens)
}
