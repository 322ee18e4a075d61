"""Trains sparse autoencoders on stored activations, on one process or many."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.models.explained_variance import explained_variance
from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.loop import Trainer
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.controls import CONTROLS, make_sae
from cbsae_hub.trainers.sae.fits import FitState
from cbsae_hub.trainers.sae.state import SAEState

SCALE_BATCHES = 100
MEDIAN_STEPS, MEDIAN_TOLERANCE = 100, 1e-5  # at most; a shorter step, as part of the points' mean distance, is the last


class Heldout(NamedTuple):
    """Figures of an SAE on held-out tokens, by the inference rule."""

    explained_variance: float
    """About the mean of the held-out tokens."""
    l0: float
    """Active latents per token."""
    silent_share: float
    """Share of the neurons that are active on none of these tokens."""
    tokens: int


class SAETrainer(Trainer[SAETrainConfig, SAEState | FitState]):
    """Trains an SAE as the reference recipe does, or makes the control that the settings name.

    Batches are global: with several processes each computes its share, batch_topk selects over all of them, and the
    result is that of one process up to rounding. Runs are exact to the bit when they are continued on the same
    machine with the same number of processes and threads.

    Args:
        config: The settings.
        train: Activations to train on.
        heldout: Activations of other images, for every reported figure and for the calibrated threshold.
        output: Folder of the checkpoint, the log and, in the end, the SAE.
        accelerator: The run's accelerator; default a new one with the recipe's precision and trackers.
        description: Arguments of :class:`SAE` that say what the activations are (encoder_id, layer, ...); default
            what the store says of them.
    """

    def __init__(
        self,
        config: SAETrainConfig,
        train: ActivationStore,
        heldout: ActivationStore,
        output: str | Path,
        *,
        accelerator: Accelerator | None = None,
        description: dict[str, Any] | None = None,
    ):
        super().__init__(config, train, heldout, output, accelerator)
        description = describe(train.manifest) if description is None else description
        self.sae = make_sae(config, train.d_in, **description).to(self.accelerator.device)
        fit = CONTROLS[config.control].fit
        if fit is None:
            self.state = SAEState(self.sae, config, self.accelerator)
        else:
            self.state = FitState(self.sae, fit, config, self.accelerator)
        if not config.descends and fit is None:
            self.steps = 0  # nothing is found in the data

    def _update(self, batch: Tensor) -> dict[str, Tensor]:
        x = batch.to(self.accelerator.device) / self.state.norm_factor
        if isinstance(self.state, FitState):
            return self.state.update(x)
        loss, gradient_norm = self.state.update(x)
        return {f"loss/{name}": value for name, value in loss._asdict().items()} | {"gradient_norm": gradient_norm}

    def _gauges(self) -> dict[str, Any]:
        if not self.config.descends:
            return {}
        lr = self.config.lr_at(self.state.step - 1, self.sae.d_sae)
        return {"lr": lr, **self._dead_share()}

    def _dead_share(self) -> dict[str, Any]:
        """Share of dead neurons; before the first one can be dead, None with the reason."""
        if isinstance(self.state, FitState):
            return {"dead_share": None, "dead_share_unknown": "no gradients train it"}
        total, after = self.state.step * self.config.batch_size, self.config.dead_after_tokens
        if total < after:
            return {"dead_share": None, "dead_share_unknown": f"{total:,} tokens seen, dead after {after:,}"}
        return {"dead_share": self.state.dead_neurons.share}

    def _initialise(self) -> None:
        """Input scale and first ``b_dec``; every process reads the same whole batches, so all agree."""

        def whole_batches() -> Iterator[Tensor]:
            return self.train_data.batches(self.config.batch_size, self.config.seed, 0)

        if self.config.normalize_inputs:
            self.state.norm_factor = input_scale(whole_batches())
        if self.config.b_dec_init != "zero":
            first = next(iter(whole_batches())) / self.state.norm_factor
            centre = first.mean(0) if self.config.b_dec_init == "mean" else geometric_median(first)
            self.sae.b_dec.data.copy_(centre)
        if isinstance(self.state, FitState):
            self.state.fit.start(batch / self.state.norm_factor for batch in whole_batches())

    def _heldout_batches(self) -> Iterator[Tensor]:
        """This process's share of the held-out tokens, raw."""
        return self._heldout(drop_last=False)

    def evaluate(self) -> Heldout:
        """Figures of the SAE as it is now, on held-out activations."""
        heldout = (x / self.state.norm_factor for x in self._heldout_batches())
        return evaluate_sae(self.state.model, heldout, self.processes)

    def _finish(self) -> Heldout:
        """Folds the input scale in, calibrates the threshold, saves the SAE and training.json."""
        sae = copy.deepcopy(self.state.model)
        if (end := CONTROLS[self.config.control].end) is not None:
            end(sae, self.config.seed)
        sae.fold_input_scale(self.state.norm_factor)
        thresholds = {}
        if sae.activation == "batch_topk" and sae.threshold is not None:
            running = sae.threshold.tolist() if sae.threshold_is_set else None
            sae.calibrate_threshold(self._heldout_batches, reduce=self.processes.sum_)
            thresholds = {"running": running, "calibrated": sae.threshold.tolist()}
        final = evaluate_sae(sae, self._heldout_batches(), self.processes)
        facts = {"norm_factor": self.state.norm_factor, **self._dead_share()}
        self._publish(sae, final, **facts, threshold=thresholds)
        return final


def describe(manifest: dict[str, Any]) -> dict[str, Any]:
    """The description of activations in a store's manifest, as arguments of :class:`SAE`."""
    return {**manifest["encoder"], "training_data": {**manifest["images"], "num_images": manifest["num_images"]}}


@torch.no_grad()
def evaluate_sae(sae: SAE, batches: Iterable[Tensor], processes: Processes | None = None) -> Heldout:
    """Evaluates an SAE in one pass over all processes, with sums in double precision.

    Args:
        sae: The autoencoder.
        batches: This process's share of the held-out tokens, ``[n, d_in]`` each, in the units of the SAE.
        processes: Default one.

    Raises:
        ValueError: If there are no tokens, or they do not vary.
    """
    processes = processes or Processes()
    device = sae.W_dec.device
    sums = torch.zeros(sae.d_in, dtype=torch.float64, device=device)
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # squares, squared errors, active, tokens
    fired = torch.zeros(sae.d_sae, dtype=torch.float64, device=device)
    for batch in batches:
        x = batch.to(device)
        values, indices = sae.encode_sparse(x)
        decoded, x = sae.decode_sparse(values, indices, like=x).double(), x.double()
        active = values > 0
        sums += x.sum(0)
        counts = active.sum().double(), totals.new_tensor(len(x))
        totals += torch.stack([x.square().sum(), (x - decoded).square().sum(), *counts])
        fired[indices[active]] = 1
    for tensor in (sums, totals, fired):
        processes.sum_(tensor)
    squares, errors, active_count, tokens = totals.tolist()
    if tokens == 0:
        raise ValueError("no held-out tokens to evaluate on")
    explained = explained_variance(sums, squares, errors, tokens)
    if math.isnan(explained):
        raise ValueError("the held-out tokens do not vary, so no share of their variance can be explained")
    return Heldout(explained, active_count / tokens, (fired == 0).double().mean().item(), int(tokens))


def input_scale(batches: Iterable[Tensor]) -> float:
    """``sqrt(mean |x|^2)`` over at most 100 batches ``[n, d_in]``; activations divided by it have unit mean square."""
    squares, tokens = 0.0, 0
    for batch in itertools.islice(batches, SCALE_BATCHES):
        squares += batch.double().square().sum().item()
        tokens += len(batch)
    if tokens == 0 or squares == 0:
        raise ValueError("cannot estimate the scale of the activations: there are none, or all are zero")
    return (squares / tokens) ** 0.5


def geometric_median(points: Tensor) -> Tensor:
    """The point ``[d]`` with the smallest mean distance to ``points [n, d]``, by Weiszfeld's iteration."""
    exact = points.double()
    median = exact.mean(0)
    for _ in range(MEDIAN_STEPS):
        distances = (exact - median).norm(dim=1).clamp_min(1e-12)
        weights = 1 / distances
        last, median = median, weights @ exact / weights.sum()
        if (median - last).norm() <= MEDIAN_TOLERANCE * distances.mean():
            break
    return median.to(points.dtype)
