"""The loop of every training run on stored activations: steps, log, checkpoints, resuming, stopping."""

import dataclasses
import itertools
import json
import logging
import platform
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import accelerate
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.cards.write import write_card
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.hub.files import folder_revision, write_text
from cbsae_hub.hub.references import command_elsewhere
from cbsae_hub.models.base import HubModel
from cbsae_hub.processes import claimed, make_accelerator
from cbsae_hub.trainers.config import TrainConfig
from cbsae_hub.trainers.run import (
    CHECKPOINT_NAME,
    LOG_NAME,
    Processes,
    StopRequest,
    drop_lines_after,
    load_checkpoint,
    save_checkpoint,
)
from cbsae_hub.version import __version__, source_commit

logger = logging.getLogger(__name__)

TRAINING_NAME = "training.json"


class Interrupted(RuntimeError):
    """Training was asked to stop, and has saved a checkpoint.

    Attributes:
        exit_code: The exit code that a shell reports for a program that Ctrl-C ended.
    """

    exit_code = 130


class State(Protocol):
    """The state of a training run."""

    step: int

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is large, by name."""

    def facts(self) -> dict[str, Any]:
        """Everything else, as JSON."""

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continues from what :meth:`tensors` and :meth:`facts` returned."""


ConfigType = TypeVar("ConfigType", bound=TrainConfig)
StateType = TypeVar("StateType", bound=State)


class Trainer(ABC, Generic[ConfigType, StateType]):
    """A run whose batches are global: each of several processes computes its share.

    A subclass sets :attr:`state`.

    Args:
        config: The settings.
        train: Activations to train on.
        heldout: Activations of other images, for every reported figure.
        output: Folder of the checkpoint, the log and, in the end, the model.
        accelerator: The run's accelerator; default a new one with the recipe's precision and trackers.

    Attributes:
        steps: Updates of the whole run.
        doubts: What the run is too small for, see :meth:`TrainConfig.doubts`: logged before it starts, and kept in
            ``training.json``.
    """

    state: StateType

    def __init__(
        self,
        config: ConfigType,
        train: ActivationStore,
        heldout: ActivationStore,
        output: str | Path,
        accelerator: Accelerator | None = None,
    ):
        self.config = config
        self.train_data, self.heldout_data = train, heldout
        self.output = Path(output)
        self.accelerator = accelerator or self._make_accelerator()
        self.processes = Processes(self.accelerator)
        if config.batch_size % self.processes.count:
            count = self.processes.count
            raise ValueError(f"batch_size {config.batch_size} is not a multiple of the {count} processes")
        self.steps = config.steps
        self.doubts = config.doubts(len(train), len(heldout), train.d_in)
        self.steps_per_epoch = len(train) // config.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(f"{len(train)} activations are fewer than one batch of {config.batch_size}")

    def _make_accelerator(self) -> Accelerator:
        config = self.config
        accelerator = make_accelerator(
            mixed_precision=config.mixed_precision, log_with=list(config.log_with), project_dir=self.output
        )
        # Accelerate leaves out, silently, what is not installed.
        if missing := set(config.log_with) - {str(tracker) for tracker in accelerator.log_with}:
            raise ValueError(f"log_with names what is not installed: pip install {' '.join(sorted(missing))}")
        return accelerator

    # ------------------------------------------------------------------------------------------------ the loop

    def train(self, resume: bool = False) -> Any:
        """Trains to the end, and saves the model and ``training.json`` in the output folder.

        Args:
            resume: Continue from the checkpoint in the output folder, if there is one.

        Returns:
            Final figures on held-out activations.

        Raises:
            FileExistsError: If the output folder has a checkpoint and ``resume`` is False.
            ValueError: If the checkpoint is of other settings.
            FloatingPointError: If the loss becomes infinite or NaN.
            Interrupted: If the process got SIGINT or SIGTERM; a checkpoint was saved.
            FolderInUse: If another run writes into the output folder.
        """
        with claimed(self.output, self.accelerator):
            if self.accelerator.is_main_process:
                for doubt in self.doubts:
                    logger.warning("%s: %s", self.output, doubt)
            return self._train(resume)

    def _train(self, resume: bool) -> Any:
        if not self._restore(resume):
            self._initialise()
        self.accelerator.init_trackers("cbsae_hub", _flat(self.config))
        progress = tqdm(
            self._batches(self.state.step),
            initial=self.state.step,
            total=self.steps,
            desc="training",
            disable=not self.accelerator.is_main_process,
        )
        with StopRequest(self.processes, self.accelerator.device) as stop, progress:
            for batch in progress:
                values = self._update(batch)
                self._report(progress, values)
                last = self.state.step == self.steps
                stopping = not last and stop.requested()
                if last or stopping or self.state.step % self.config.checkpoint_every == 0:
                    self._require_finite(values)
                    self._save_checkpoint()
                if stopping:
                    self._finish_trackers()
                    raise Interrupted(f"stopped after step {self.state.step}; continue with --resume")
        return self._finish()

    @abstractmethod
    def _initialise(self) -> None:
        """Prepares a run that does not continue another; all processes must come to the same."""

    reads: ClassVar[str] = "batches"
    """The method of a store that gives what :meth:`_update` takes."""

    @abstractmethod
    def _update(self, batch: Any) -> dict[str, Tensor]:
        """One step on a batch; returns scalars for the log."""

    @abstractmethod
    def _gauges(self) -> dict[str, Any]:
        """Returns further figures for the log; one that is not known is None, with the reason beside it."""

    @abstractmethod
    def evaluate(self) -> NamedTuple:
        """Figures of the model as it is now, on held-out activations."""

    @abstractmethod
    def _finish(self) -> Any:
        """Saves what was trained; returns the final figures."""

    def _share(self, store: ActivationStore, size: int, epoch: int, **options: Any) -> Iterator[Any]:
        """This process's share of the global batches of an epoch."""
        place = {"rank": self.processes.rank, "world": self.processes.count}
        return getattr(store, self.reads)(size, self.config.seed, epoch, **place, **options)

    def _batches(self, start: int) -> Iterator[Any]:
        """Batches from a step on, epoch after epoch."""
        first_epoch, first_batch = divmod(start, self.steps_per_epoch)
        store, size = self.train_data, self.config.batch_size
        batches = (
            self._share(store, size, epoch, start_batch=first_batch if epoch == first_epoch else 0)
            for epoch in itertools.count(first_epoch)
        )
        return itertools.islice(itertools.chain.from_iterable(batches), self.steps - start)

    def _heldout(self, **options: Any) -> Iterator[Any]:
        """This process's share of as many held-out tokens as an evaluation reads; arguments as :meth:`_share`."""
        size = min(self.config.batch_size, len(self.heldout_data))
        batches = self._share(self.heldout_data, size, 0, **options)
        return itertools.islice(batches, -(-self.config.eval_tokens // size))

    def _require_finite(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if not value.isfinite():
                raise FloatingPointError(
                    f"{name} is {value.item()} at step {self.state.step}: lower lr, or look at the activations"
                )

    def _report(self, progress: tqdm, values: dict[str, Tensor]) -> None:
        metrics = {}
        if self.state.step % self.config.log_every == 0:
            self._require_finite(values)
            metrics = {name: value.item() for name, value in values.items()}
            progress.set_postfix({name.split("/")[-1][:6]: f"{value:.4f}" for name, value in metrics.items()})
            metrics |= self._gauges()
        if self.state.step % self.config.eval_every == 0 and self.state.step < self.steps:
            metrics |= {f"heldout/{name}": value for name, value in self.evaluate()._asdict().items()}
        if metrics:
            self.accelerator.log(metrics, step=self.state.step)

    # ------------------------------------------------------------------------------------------------- the end

    def _publish(self, model: HubModel, final: NamedTuple, **facts: Any) -> None:
        """Saves the model, then training.json, then removes the checkpoint: the folder is fit to be published."""
        metrics = {f"final/{name}": value for name, value in final._asdict().items()}
        self.accelerator.log(metrics | self._gauges(), step=self.state.step)
        if self.accelerator.is_main_process:
            model.save_pretrained(self.output)
            content = {"revision": folder_revision(self.output), **self._facts(), **facts, "heldout": final._asdict()}
            write_text(self.output / TRAINING_NAME, json.dumps(content, indent=2) + "\n")
            write_card(self.output)
            (self.output / CHECKPOINT_NAME).unlink(missing_ok=True)  # a run without steps has none
        self.accelerator.wait_for_everyone()
        self._finish_trackers()

    def _facts(self) -> dict[str, Any]:
        libraries = {"cbsae_hub": __version__, "torch": torch.__version__, "accelerate": accelerate.__version__}
        return {
            "command": command_elsewhere(_command()),
            "commit": source_commit(),
            "config": self.config.to_dict(),
            "doubts": self.doubts,
            "seed": self.config.seed,
            "tokens_seen": self.state.step * self.config.batch_size,
            "processes": self.processes.count,
            "versions": {**libraries, "python": platform.python_version()},
        }

    def _finish_trackers(self) -> None:
        # Not end_training(), which would also end the process group, and with it what the caller does next.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    # --------------------------------------------------------------------------------------------- checkpoints

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.output / CHECKPOINT_NAME, self.state.tensors(), self.state.facts())
        self.accelerator.wait_for_everyone()

    def _restore(self, resume: bool) -> bool:
        """Restores the checkpoint, if there is one; returns whether."""
        if (self.output / TRAINING_NAME).exists():
            raise FileExistsError(f"{self.output} holds a finished model: choose another output, or remove it first")
        loaded = load_checkpoint(self.output / CHECKPOINT_NAME, self.accelerator.device)
        if loaded and not resume:
            raise FileExistsError(
                f"{self.output} has the checkpoint of a run: continue it with --resume, or choose another output"
            )
        if loaded:
            self.state.restore(*loaded)
        if self.accelerator.is_main_process:
            if loaded:
                logger.info("continuing %s after step %d", self.output, self.state.step)
            elif resume:
                logger.info("%s has no checkpoint to continue from: a new run starts", self.output)
            drop_lines_after(self.output / LOG_NAME, self.state.step)
        return loaded is not None


def _flat(config: TrainConfig) -> dict[str, Any]:
    """Settings in the types that every tracker takes."""
    return {
        name: value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
        for name, value in dataclasses.asdict(config).items()
    }


def _command() -> str:
    """The command that started this process, as one would type it: folders of this machine are nobody's business."""
    program, module = Path(sys.argv[0]), getattr(sys.modules["__main__"], "__spec__", None)
    name = "" if module is None else module.name.removesuffix(".__main__")
    if program.stem == "cbsae" or name in ("cbsae_hub", "cbsae_hub.cli"):
        started = ["cbsae"]
    elif name:
        started = ["python", "-m", name]
    else:
        started = [Path(sys.executable).name, program.name if program.is_absolute() else sys.argv[0]]
    return shlex.join([*started, *sys.argv[1:]])
