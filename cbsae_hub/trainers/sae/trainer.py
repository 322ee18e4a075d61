"""Trains sparse autoencoders on stored activations, on one process or many."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.loop import Interrupted, Trainer
from cbsae_hub.trainers.sae import initialise
from cbsae_hub.trainers.sae.evaluate import Heldout, evaluate
from cbsae_hub.trainers.sae.state import TrainingState

__all__ = ["Interrupted", "SAETrainer", "describe"]


class SAETrainer(Trainer):
    """Trains an SAE as the reference recipe does.

    Batches are global: with several processes each computes its share, batch_topk selects over all of them, and the
    result is that of one process up to rounding. Runs are exact to the bit when they are continued on the same
    machine with the same number of processes and threads.

    Args:
        config: The recipe.
        train: Activations to train on.
        heldout: Activations of other images, for every reported figure and for the calibrated threshold.
        output: Folder of the checkpoint, the log and, in the end, the SAE.
        accelerator: The run's; default a new one with the recipe's precision and trackers.
        description: Arguments of :class:`SAE` that say what the activations are (encoder_id, layer, ...).
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
        self.sae = SAE(
            train.d_in,
            config.neurons(train.d_in),
            config.activation,
            config.k,
            config.group_sizes(train.d_in),
            bandwidth=config.bandwidth,
            threshold_per_neuron=config.threshold_per_neuron,
            seed=config.seed,
            **(description or {}),
        ).to(self.accelerator.device)
        self.state = TrainingState(self.sae, config, self.accelerator)

    def _update(self, batch: Tensor) -> dict[str, Tensor]:
        x = batch.to(self.accelerator.device) / self.state.norm_factor
        loss, gradient_norm = self.state.update(x)
        return {f"loss/{name}": value for name, value in loss._asdict().items()} | {"gradient_norm": gradient_norm}

    def _gauges(self) -> dict[str, float]:
        return {
            "lr": self.config.lr_at(self.state.step - 1, self.sae.d_sae),
            "dead_share": self.state.dead_neurons.share,
        }

    def _initialise(self) -> None:
        """Input scale and first ``b_dec``; every process reads the same whole batches, so all agree."""

        def whole_batches() -> Iterator[Tensor]:
            return self.train_data.batches(self.config.batch_size, self.config.seed, 0)

        if self.config.normalize_inputs:
            self.state.norm_factor = initialise.input_scale(whole_batches())
        if self.config.b_dec_init == "zero":
            return
        first = next(iter(whole_batches())) / self.state.norm_factor
        centre = first.mean(0) if self.config.b_dec_init == "mean" else initialise.geometric_median(first)
        self.sae.b_dec.data.copy_(centre)

    def _heldout_batches(self) -> Iterator[Tensor]:
        """This process's share of the held-out tokens, raw."""
        return self._heldout(self.heldout_data.batches, drop_last=False)

    def evaluate(self) -> Heldout:
        """Figures of the SAE as it is now, on held-out activations."""
        return evaluate(self.sae, (x / self.state.norm_factor for x in self._heldout_batches()), self.processes)

    def _finish(self) -> Heldout:
        """Folds the input scale in, calibrates the threshold, saves the SAE and training.json."""
        sae = copy.deepcopy(self.sae)
        sae.fold_input_scale(self.state.norm_factor)
        thresholds = {}
        if self.config.activation == "batch_topk":
            running = sae.threshold.tolist() if sae.threshold_is_set else None
            sae.calibrate_threshold(self._heldout_batches, reduce=self.processes.sum_)
            thresholds = {"running": running, "calibrated": sae.threshold.tolist()}
        final = evaluate(sae, self._heldout_batches(), self.processes)
        self._publish(
            sae,
            final,
            norm_factor=self.state.norm_factor,
            dead_share=self.state.dead_neurons.share,
            threshold=thresholds,
        )
        return final


def describe(manifest: dict[str, Any]) -> dict[str, Any]:
    """What an activation store's manifest says about its activations, as arguments of :class:`SAE`."""
    return {**manifest["encoder"], "training_data": {**manifest["images"], "num_images": manifest["num_images"]}}
