"""Trains sparse autoencoders on stored activations, on one process or many."""

import copy
import dataclasses
import itertools
import json
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.models.files import replace_file
from cbsae_hub.models.sae import SAE
from cbsae_hub.trainers import initialise, tracking
from cbsae_hub.trainers.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.evaluate import Heldout, evaluate
from cbsae_hub.trainers.interrupt import StopRequest
from cbsae_hub.trainers.losses import Loss
from cbsae_hub.trainers.processes import Processes
from cbsae_hub.trainers.state import TrainingState
from cbsae_hub.version import __version__

logger = logging.getLogger(__name__)

TRAINING_NAME = "training.json"


class Interrupted(Exception):
    """Training was asked to stop, and has saved a checkpoint."""


class SAETrainer:
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
        self.config = config
        self.train_data, self.heldout_data = train, heldout
        self.output = Path(output)
        self.accelerator = accelerator or self._make_accelerator()
        self.processes = Processes(self.accelerator)
        if config.batch_size % self.processes.count:
            raise ValueError(
                f"batch_size {config.batch_size} is not a multiple of the {self.processes.count} processes"
            )
        self.steps_per_epoch = len(train) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(f"{len(train)} activations are fewer than one batch of {config.batch_size}")
        device = self.accelerator.device
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
        ).to(device)
        self.state = TrainingState(self.sae, config, self.accelerator)

    def _make_accelerator(self) -> Accelerator:
        config = self.config
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision, log_with=list(config.log_with), project_dir=self.output
        )
        # Accelerate leaves out, silently, what is not installed.
        if missing := set(config.log_with) - {str(tracker) for tracker in accelerator.log_with}:
            raise ValueError(f"log_with names what is not installed: pip install {' '.join(sorted(missing))}")
        return accelerator

    # ------------------------------------------------------------------------------------------------ the loop

    def train(self, resume: bool = False) -> Heldout:
        """Trains to the end, and saves the SAE and ``training.json`` in the output folder.

        Args:
            resume: Continue from the checkpoint in the output folder, if there is one.

        Returns:
            Final figures on held-out activations, with the calibrated threshold.

        Raises:
            FileExistsError: If the output folder has a checkpoint and ``resume`` is False.
            ValueError: If the checkpoint is of other settings.
            FloatingPointError: If the loss becomes infinite or NaN.
            Interrupted: If the process got SIGINT or SIGTERM; a checkpoint was saved.
        """
        if not self._restore(resume):
            self._initialise()
        self.accelerator.init_trackers("cbsae_hub", _flat(self.config))
        progress = tqdm(
            self._batches(self.state.step),
            initial=self.state.step,
            total=self.config.steps,
            desc="training",
            disable=not self.accelerator.is_main_process,
        )
        with StopRequest(self.processes, self.accelerator.device) as stop, progress:
            for x in progress:
                x = x.to(self.accelerator.device) / self.state.norm_factor
                loss, gradient_norm = self.state.update(x)
                self._report(progress, loss, gradient_norm)
                last = self.state.step == self.config.steps
                stopping = not last and stop.requested()
                if last or stopping or self.state.step % self.config.checkpoint_every == 0:
                    self._require_finite(loss, gradient_norm)
                    self._save_checkpoint()
                if stopping:
                    self._finish_trackers()
                    raise Interrupted(f"stopped after step {self.state.step}; continue with --resume")
        return self._finish()

    def _require_finite(self, loss: Loss, gradient_norm: Tensor) -> None:
        if not (loss.total + gradient_norm).isfinite():
            raise FloatingPointError(
                f"the loss is {loss.total.item()} at step {self.state.step}: lower lr, or look at the activations"
            )

    def _batches(self, start: int) -> Iterator[Tensor]:
        """This process's share of each global batch from a step on, epoch after epoch."""
        epochs = itertools.count(start // self.steps_per_epoch)
        first = start % self.steps_per_epoch

        def all_batches() -> Iterator[Tensor]:
            for epoch in epochs:
                skipped = first if epoch == start // self.steps_per_epoch else 0
                yield from self.train_data.batches(
                    self.config.batch_size,
                    self.config.seed,
                    epoch,
                    start_batch=skipped,
                    rank=self.processes.rank,
                    world=self.processes.count,
                )

        return itertools.islice(all_batches(), self.config.steps - start)

    # ---------------------------------------------------------------------------------------- start and figures

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
        size = min(self.config.batch_size, len(self.heldout_data))
        batches = self.heldout_data.batches(
            size, self.config.seed, 0, rank=self.processes.rank, world=self.processes.count, drop_last=False
        )
        return itertools.islice(batches, -(-self.config.eval_tokens // size))

    def evaluate(self) -> Heldout:
        """Figures of the SAE as it is now, on held-out activations."""
        return evaluate(self.sae, (x / self.state.norm_factor for x in self._heldout_batches()), self.processes)

    def _report(self, progress: tqdm, loss: Loss, gradient_norm: Tensor) -> None:
        metrics = {}
        if self.state.step % self.config.log_every == 0:
            self._require_finite(loss, gradient_norm)
            metrics = {f"loss/{name}": value.item() for name, value in loss._asdict().items()}
            metrics |= {
                "gradient_norm": gradient_norm.item(),
                "lr": self.config.lr_at(self.state.step - 1, self.sae.d_sae),
                "dead_share": self.state.dead_neurons.share,
            }
            progress.set_postfix(error=f"{loss.reconstruction.item():.4f}", dead=f"{self.state.dead_neurons.share:.3f}")
        if self.state.step % self.config.eval_every == 0 and self.state.step < self.config.steps:
            metrics |= {f"heldout/{name}": value for name, value in self.evaluate()._asdict().items()}
        if metrics:
            self.accelerator.log(metrics, step=self.state.step)

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
        metrics = {f"final/{name}": value for name, value in final._asdict().items()}
        self.accelerator.log(metrics | {"dead_share": self.state.dead_neurons.share}, step=self.state.step)
        if self.accelerator.is_main_process:
            sae.save_pretrained(self.output)
            facts = self._facts() | {"threshold": thresholds, "heldout": final._asdict()}
            with replace_file(self.output / TRAINING_NAME) as temporary:
                temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            # The folder is fit to be published now.
            (self.output / CHECKPOINT_NAME).unlink()
        self.accelerator.wait_for_everyone()
        self._finish_trackers()
        return final

    def _facts(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "tokens_seen": self.state.step * self.config.batch_size,
            "processes": self.processes.count,
            "norm_factor": self.state.norm_factor,
            "dead_share": self.state.dead_neurons.share,
            "versions": {
                "cbsae_hub": __version__,
                "torch": torch.__version__,
                "accelerate": accelerate.__version__,
                "python": platform.python_version(),
            },
        }

    def _finish_trackers(self) -> None:
        # Not end_training(), which would also end the process group, and with it what the caller does next.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    # --------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.output, self.state.tensors(), self.state.facts())
        self.accelerator.wait_for_everyone()

    def _restore(self, resume: bool) -> bool:
        """Restores the checkpoint, if there is one; returns whether."""
        if (self.output / TRAINING_NAME).exists():
            raise FileExistsError(f"{self.output} holds a finished SAE: choose another output, or remove it first")
        loaded = load_checkpoint(self.output, self.accelerator.device)
        if loaded and not resume:
            raise FileExistsError(
                f"{self.output} has the checkpoint of a run: continue it with --resume, or choose another output"
            )
        if loaded:
            self.state.restore(*loaded)
            logger.info("continuing %s after step %d", self.output, self.state.step)
        if self.accelerator.is_main_process:
            tracking.drop_lines_after(self.output / tracking.LOG_NAME, self.state.step)
        return loaded is not None


def _flat(config: SAETrainConfig) -> dict[str, Any]:
    """Settings in the types that every tracker takes."""
    return {
        name: value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
        for name, value in dataclasses.asdict(config).items()
    }


def describe(manifest: dict[str, Any]) -> dict[str, Any]:
    """What an activation store's manifest says about its activations, as arguments of :class:`SAE`."""
    return {**manifest["encoder"], "training_data": {**manifest["images"], "num_images": manifest["num_images"]}}
