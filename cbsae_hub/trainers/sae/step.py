"""One training step of an SAE: its loss and the gradients of its parameters.

Those of a TopK or BatchTopK SAE are computed on the active latents only (:class:`SparseStep`); the others, of which
every latent may be active, go through autograd (:class:`AutogradStep`).

Of ``n * d_sae`` latents ``n * k`` are active. One product is dense, the encoder's forward one. Decoding, the
gradients of both matrices and the auxiliary loss read and write only rows of active (or dead) neurons; the
gradients equal those of the same loss written out densely, which the tests do.

With ``r_g = x - x_hat_g`` the residual of the first ``g`` Matryoshka groups and ``w`` the weight of each group's mean
squared error, the gradient of the loss with respect to what group ``j`` adds to the reconstruction is

    s_j = -(2 w / n) * sum_{g >= j} r_g

so that, for an active latent ``z`` of neuron ``i`` in group ``j``: its own gradient is ``s_j . W_dec[i]``, the row
``W_dec[i]`` receives ``z s_j``, and the column ``W_enc[:, i]`` that gradient times ``x - b_dec``.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.ghost_grads import ghost_loss
from cbsae_hub.trainers.sae.mono_loss import mono_loss
from cbsae_hub.trainers.sae.products import Entries, product, sampled_products

# Candidates are what exceeds the last batch's smallest active latent times this. More of them cost little, too few
# mean a search among all.
MARGIN = 0.95


class Loss(NamedTuple):
    """A training loss and its parts, as means over the global batch."""

    total: Tensor
    reconstruction: Tensor
    """Squared error, over Matryoshka groups as ``matryoshka_reduction`` says."""
    penalty: Tensor
    """L1 or L0, without its coefficient; 0 for topk and batch_topk."""
    auxiliary: Tensor
    """The loss of dead neurons (aux-k without ``auxk_alpha``, or ghost grads) or of the gate (gated)."""
    monosemanticity: Tensor
    """:func:`cbsae_hub.trainers.sae.mono_loss.mono_loss`, without its weight; 0 where that is 0."""


def group_weight(config: SAETrainConfig, groups: int) -> float:
    """Weight of each Matryoshka group's mean squared error in the loss."""
    power = {"sum": 0, "mean": 1, "dictionary_learning": 2}[config.matryoshka_reduction]
    return groups**-power


class DeadNeurons:
    """Counts tokens since each neuron last fired, over all processes: ``silent_tokens [d_sae]`` int64.

    A neuron is dead once it has not fired for ``after_tokens``.
    """

    def __init__(
        self, d_sae: int, after_tokens: int, processes: Processes | None = None, device: torch.device | str = "cpu"
    ):
        self.after_tokens = after_tokens
        self.processes = processes or Processes()
        self.silent_tokens = torch.zeros(d_sae, dtype=torch.int64, device=device)

    def update(self, fired: Tensor, tokens: int) -> Tensor:
        """Takes in a batch: ids of the neurons that fired in this process's share, and the tokens in the global batch.

        Returns:
            Ids of the dead neurons, ascending, the same on every process.
        """
        if self.processes.count > 1:
            mask = torch.zeros_like(self.silent_tokens, dtype=torch.int32)
            mask[fired] = 1
            fired = self.processes.sum_(mask).nonzero().squeeze(1)
        self.silent_tokens += tokens
        self.silent_tokens[fired] = 0
        return self.dead

    @property
    def dead(self) -> Tensor:
        """Ids of the dead neurons, ascending."""
        return (self.silent_tokens >= self.after_tokens).nonzero().squeeze(1)

    @property
    def share(self) -> float:
        """Share of the neurons that are dead."""
        return len(self.dead) / len(self.silent_tokens)


class Active(NamedTuple):
    """The active latents of a batch, sorted by token and neuron: three vectors, all values positive."""

    tokens: Tensor
    neurons: Tensor
    values: Tensor


class SparseStep:
    """Computes loss and gradients of a batch; keeps the large buffers from step to step.

    Args:
        sae: A topk or batch_topk SAE. ``W_enc`` is stored neuron by neuron from now on (its shape stays).
        config: Weights of the loss terms.
        dead_neurons: Counter that every batch updates; its dead neurons get the auxiliary loss.
        processes: The processes that share each batch; all of them get the gradients of the global batch.
        autocast: Gives the context in which the dense product runs.
    """

    def __init__(
        self,
        sae: SAE,
        config: SAETrainConfig,
        dead_neurons: DeadNeurons,
        processes: Processes | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.sae, self.config, self.dead_neurons = sae, config, dead_neurons
        self.processes, self.autocast = processes or Processes(), autocast
        self.selector = Selector(sae, self.processes)
        self.groups = len(sae.group_sizes or (1,))
        self.group_of = sae.group_of
        self.hidden = sae.W_dec.new_empty(0, sae.d_sae)
        store_by_neuron_(sae)
        if sae.b_enc is None:
            raise ValueError(f"an SAE of activation {sae.activation!r} is trained by AutogradStep")
        self.b_enc = sae.b_enc
        self.grad_encoder = sae.W_enc.grad = torch.zeros_like(sae.W_dec).T
        self.grad_decoder = sae.W_dec.grad = torch.zeros_like(sae.W_dec)
        self.grad_bias = sae.b_enc.grad = torch.zeros_like(sae.b_enc)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Loss:
        """Overwrites the ``.grad`` of all parameters, and returns the loss of the global batch.

        Args:
            x: ``[n, d_in]``, this process's share of the batch.
        """
        sae, tokens = self.sae, len(x) * self.processes.count
        centred = x - sae.b_dec
        hidden = self._hidden(centred)
        positions, values = self.selector.select(hidden)
        active = Active(positions // sae.d_sae, positions % sae.d_sae, values.to(x.dtype))

        # A token has one row for each group. Positions ascend by token and neuron, and so do these rows.
        rows = active.tokens * self.groups + self.group_of[active.neurons]
        entries = Entries.sorted(rows, active.neurons, active.values, len(x) * self.groups)
        residuals = self._residuals(entries, centred)
        weight = group_weight(self.config, self.groups) / tokens
        reconstruction = self.processes.sum_(weight * torch.linalg.vector_norm(residuals).square())
        # s_j without the factor -2 w / n, which goes to the active latents; s of the last group is its residual.
        signal = _sum_following_(residuals)
        grad_values = -2 * weight * sampled_products(entries, signal.flatten(0, 1), sae.W_dec)
        mono = x.new_zeros(())
        if self.config.monosemanticity_weight:
            mono, pull = mono_loss(x, *active, sae.d_sae, self.processes)
            grad_values += self.config.monosemanticity_weight * pull
        self._fill_gradients(active, grad_values, -2 * weight * active.values, rows, signal, centred)

        dead = self.dead_neurons.update(active.neurons, tokens)
        auxiliary, coefficient = x.new_zeros(()), self.config.auxk_alpha
        if self.config.revive == "ghost_grads":
            coefficient = 1.0
            if len(dead):
                auxiliary = self._add_ghost(hidden, centred, signal[:, -1], dead, reconstruction)
        elif len(dead) and coefficient:
            auxiliary = self._add_auxiliary(hidden, centred, signal[:, -1], dead)
        # b_dec is added to every reconstruction and subtracted from every input of the encoder.
        sae.b_dec.grad = signal[:, 0].sum(0).mul_(-2 * weight).addmv_(sae.W_enc, self.grad_bias, alpha=-1)
        sum_gradients_(sae, self.processes)
        total = reconstruction + coefficient * auxiliary + self.config.monosemanticity_weight * mono
        return Loss(total, reconstruction, x.new_zeros(()), auxiliary, mono)

    def _residuals(self, entries: Entries, centred: Tensor) -> Tensor:
        """Errors of the reconstructions by the first 1, 2, ... groups, ``[n, groups, d_in]``."""
        residuals = product(entries, self.sae.W_dec).view(len(centred), self.groups, -1)
        before = centred
        for group in residuals.unbind(1):
            before = torch.sub(before, group, out=group)
        return residuals

    def _fill_gradients(
        self, active: Active, grad_values: Tensor, scaled_values: Tensor, rows: Tensor, signal: Tensor, centred: Tensor
    ) -> None:
        """Gradients of the matrices and ``b_enc``, from those of the active latents."""
        sae = self.sae
        order = active.neurons.argsort(stable=True)
        by_neuron = Entries.sorted(active.neurons[order], active.tokens[order], grad_values[order], sae.d_sae)
        product(by_neuron, centred, out=self.grad_encoder.T)
        by_neuron = by_neuron._replace(columns=rows[order], values=scaled_values[order])
        product(by_neuron, signal.flatten(0, 1), out=self.grad_decoder)
        self.grad_bias.zero_().index_add_(0, active.neurons, grad_values)

    def _hidden(self, centred: Tensor) -> Tensor:
        """The encoder's product ``[n, d_sae]`` before the ReLU, in one buffer that every step reuses."""
        sae = self.sae
        with self.autocast():
            if torch.is_autocast_enabled(centred.device.type):
                return torch.nn.functional.linear(centred, sae.W_enc.T, sae.b_enc)
        if len(self.hidden) != len(centred):
            self.hidden = centred.new_empty(len(centred), sae.d_sae)
        return torch.addmm(self.b_enc, centred, sae.W_enc, out=self.hidden)

    def _add_auxiliary(self, hidden: Tensor, centred: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        """Adds the gradients of the loss for dead neurons; work in proportion to their number.

        ``E|r - a W_dec|^2 / E|r - mean r|^2`` over the global batch, where ``a`` are the ``k_aux`` largest
        pre-activations of dead neurons, and ``r`` is the residual, not differentiated; 0 where it has no variance
        (Gao et al., "Scaling and evaluating sparse autoencoders", 2024, A.2).
        """
        sae, tokens = self.sae, len(centred) * self.processes.count
        latents = hidden.index_select(1, dead).relu_().to(centred.dtype)
        k_aux = min(self.config.k_aux or sae.d_in // 2, len(dead))
        if k_aux < len(dead):
            values, indices = latents.topk(k_aux, sorted=False)
            latents = torch.zeros_like(latents).scatter_(1, indices, values)
        decoder = sae.W_dec[dead]
        mean = self.processes.sum_(residual.sum(0)) / tokens
        variance = self.processes.sum_((residual - mean).square().sum())
        if variance == 0:
            return variance
        error = residual - latents @ decoder
        loss = self.processes.sum_(error.square().sum()) / variance

        signal = error.mul_(-2 * self.config.auxk_alpha / variance)
        grad_latents = (signal @ decoder.T).mul_(latents > 0)
        self._add_gradients(dead, grad_latents, latents.T @ signal, centred)
        return loss

    def _add_ghost(
        self, hidden: Tensor, centred: Tensor, residual: Tensor, dead: Tensor, reconstruction: Tensor
    ) -> Tensor:
        """Adds the gradients of :func:`ghost_loss`, whose part behind the dead neurons' products goes by autograd."""
        products = hidden.index_select(1, dead).to(centred.dtype).requires_grad_()
        decoder = self.sae.W_dec.detach()[dead].requires_grad_()
        with torch.enable_grad():
            loss = ghost_loss(products, decoder, residual, reconstruction, self.processes)
        grad_products, grad_decoder = torch.autograd.grad(loss, (products, decoder))
        self._add_gradients(dead, grad_products, grad_decoder, centred)
        return self.processes.sum_(loss.detach())

    def _add_gradients(self, dead: Tensor, grad_hidden: Tensor, grad_decoder: Tensor, centred: Tensor) -> None:
        """Adds gradients of dead neurons: of their products ``[n, dead]``, and of their decoder rows."""
        self.grad_decoder.index_add_(0, dead, grad_decoder)
        self.grad_encoder.T.index_add_(0, dead, grad_hidden.T @ centred)
        self.grad_bias.index_add_(0, dead, grad_hidden.sum(0))


def _sum_following_(residuals: Tensor) -> Tensor:
    """Adds to each group's residual those of all finer ones; ``[n, groups, d_in]``, in place."""
    groups = residuals.unbind(1)
    for coarser, finer in zip(groups[-2::-1], groups[:0:-1]):
        coarser += finer
    return residuals


def store_by_neuron_(sae: SAE) -> None:
    """Lays ``W_enc`` out in memory such that a neuron's weights are contiguous; shape and values stay."""
    sae.W_enc.data = sae.W_enc.data.T.contiguous().T


@torch.no_grad()
def sum_gradients_(sae: SAE, processes: Processes) -> None:
    """Sums the gradients of all processes."""
    for gradient in (parameter.grad for parameter in sae.parameters()):
        if gradient is not None:
            # Of W_enc the transpose is contiguous.
            processes.sum_(gradient.T if gradient.ndim == 2 and not gradient.is_contiguous() else gradient)


class AutogradStep:
    """Computes loss and gradients of a batch of a relu, jumprelu or gated SAE; arguments as :class:`SparseStep`."""

    def __init__(
        self,
        sae: SAE,
        config: SAETrainConfig,
        dead_neurons: DeadNeurons,
        processes: Processes,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.sae, self.config, self.dead_neurons = sae, config, dead_neurons
        self.processes, self.autocast = processes, autocast
        store_by_neuron_(sae)

    def __call__(self, x: Tensor) -> Loss:
        """Sets the ``.grad`` of all parameters, and returns the loss of the global batch; see :class:`SparseStep`."""
        self.sae.zero_grad()
        with self.autocast():
            loss, latents = penalised_loss(self.sae, x, self.config)
        fired = (latents.detach() > 0).any(0).nonzero().squeeze(1)
        dead = self.dead_neurons.update(fired, len(x) * self.processes.count)
        total = loss.total / self.processes.count
        if self.config.revive == "ghost_grads" and len(dead):
            ghost = self._ghost(x, latents, loss.reconstruction, dead)
            total, loss = total + ghost, loss._replace(auxiliary=self.processes.count * ghost)
            loss = loss._replace(total=loss.total + loss.auxiliary)
        if weight := self.config.monosemanticity_weight:
            tokens, neurons = latents.detach().nonzero().T
            mono, pull = mono_loss(
                x, tokens, neurons, latents.detach()[tokens, neurons], latents.shape[1], self.processes
            )
            total = total + weight * (pull * latents[tokens, neurons]).sum()
            loss = loss._replace(monosemanticity=mono, total=loss.total + weight * mono)
        total.backward()
        sum_gradients_(self.sae, self.processes)
        return Loss(*(self.processes.sum_(part.detach() / self.processes.count) for part in loss))

    def _ghost(self, x: Tensor, latents: Tensor, reconstruction: Tensor, dead: Tensor) -> Tensor:
        """This process's share of :func:`ghost_loss`."""
        sae = self.sae
        with torch.no_grad():
            residual = x - sae.prefix_reconstructions(latents)[-1]
        assert sae.b_enc is not None  # as SAETrainConfig requires
        hidden = torch.nn.functional.linear(x - sae.b_dec, sae.W_enc.T[dead], sae.b_enc[dead])
        size = self.processes.sum_(reconstruction.detach() / self.processes.count)
        return ghost_loss(hidden, sae.W_dec[dead], residual, size, self.processes)


def penalised_loss(sae: SAE, x: Tensor, config: SAETrainConfig) -> tuple[Loss, Tensor]:
    """The loss of relu, jumprelu and gated SAEs on ``x [n, d_in]``, for autograd, and the latents ``[n, d_sae]``."""
    latents, penalty, auxiliary = sae.train_latents(x)
    residuals = x - sae.prefix_reconstructions(latents)
    weight = group_weight(config, len(residuals))
    reconstruction = weight * residuals.square().sum(-1).mean(-1).sum()
    total = reconstruction + config.sparsity_coefficient * penalty + auxiliary
    return Loss(total, reconstruction, penalty, auxiliary, total.new_zeros(())), latents


class Selector:
    """Selects as ``sae.activation_function.select`` does, over the batches of all processes together.

    For batch_topk the smallest latent that was active a step ago tells where to look: entries above a part of it are
    few, and contain the answer if there are enough of them. If not, all entries are searched.

    Attributes:
        smallest: The smallest active latent of the last batch, over all processes; 0 before the first.
    """

    def __init__(self, sae: SAE, processes: Processes):
        self.activation, self.k, self.d_sae = sae.activation, sae.k, sae.d_sae
        self.processes = processes
        self.smallest = 0.0

    def select(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The active latents of a batch.

        Args:
            hidden: ``[n, d_sae]``, contiguous: this process's products before the ReLU.

        Returns:
            ``(positions, values)``: flat positions ``token * d_sae + neuron``, ascending, and the latents there,
            all positive. Over all processes, batch_topk selects ``k`` per token on average.
        """
        if self.activation == "batch_topk":
            return self._select_of_batch(hidden.flatten())
        values, neurons = hidden.topk(min(self.k, self.d_sae), sorted=False)
        firsts = self.d_sae * torch.arange(len(hidden), device=hidden.device)
        positions = (neurons + firsts[:, None])[values > 0].sort().values
        return positions, hidden.flatten()[positions]

    def _select_of_batch(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        count = self.k * (len(flat) // self.d_sae) * self.processes.count
        candidates = _true_positions(flat > MARGIN * self.smallest)
        if self.processes.sum_(torch.tensor([len(candidates)], device=flat.device)).item() < count:
            candidates = _true_positions(flat > 0)
        values = flat[candidates]
        keep = self._largest(values, count)
        positions, values = candidates[keep], values[keep]
        bound = values.float().min() if len(values) else torch.tensor(torch.inf, device=flat.device)
        smallest = self.processes.min_(bound).item()
        self.smallest = smallest if math.isfinite(smallest) else 0.0
        return positions, values

    def _largest(self, values: Tensor, count: int) -> Tensor:
        """Mask of those among the ``count`` largest values of all processes; of equal ones the first are kept."""
        contenders = values
        if self.processes.count > 1 and len(values) > count:
            contenders = values.topk(count, sorted=False).values
        everyone = torch.cat(self.processes.gather(contenders))
        if len(everyone) < count:
            return torch.ones_like(values, dtype=torch.bool)
        bound = everyone.kthvalue(len(everyone) - count + 1).values
        keep = values > bound
        missing = count - int((everyone > bound).sum())
        ties = self.processes.gather((values == bound).nonzero().squeeze(1))
        before = sum(len(positions) for positions in ties[: self.processes.rank])
        keep[ties[self.processes.rank][: max(0, missing - before)]] = True
        return keep


def _true_positions(mask: Tensor) -> Tensor:
    """Positions of what is set in a vector, ascending."""
    if len(mask) % 8:
        return mask.nonzero().squeeze(1)
    # Few are set: eight at a time are looked at as one integer, which is several times faster.
    words = mask.view(torch.int64).nonzero()
    inside = mask.view(-1, 8)[words.squeeze(1)]
    return (8 * words + torch.arange(8, device=mask.device))[inside]
