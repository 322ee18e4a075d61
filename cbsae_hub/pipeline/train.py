"""Trains a sparse autoencoder on stored activations."""

from pathlib import Path

from accelerate import Accelerator

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.hub.files import claim
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.sections import SAESection
from cbsae_hub.trainers.config import FREE_SETTINGS, SAETrainConfig
from cbsae_hub.trainers.loop import TRAINING_NAME
from cbsae_hub.trainers.sae.trainer import Heldout, SAETrainer


def train(settings: SAESection, *, resume: bool = False, accelerator: Accelerator | None = None) -> Heldout:
    """Trains the SAE, and writes it with training.json and a log into the output folder.

    Args:
        settings: Section `sae`.
        resume: Go on from the checkpoint in the output folder, if there is one.
        accelerator: The run's, with the precision and trackers of the settings; default a new one.

    Returns:
        Its figures on held-out activations.

    Raises:
        ValueError: If a setting cannot be, or the checkpoint is of other settings.
        OSError: If there is no store, or the output folder has a checkpoint and ``resume`` is False.
        FloatingPointError: If the loss becomes infinite or NaN.
        Interrupted: If the process got SIGINT or SIGTERM; a checkpoint was saved.
    """
    config, store = settings.config(), ActivationStore.open(settings.activations)
    activations, heldout = store.holdout(config.heldout_fraction, config.seed)
    trainer = SAETrainer(config, activations, heldout, settings.output, accelerator=accelerator)
    final = trainer.train(resume=resume)
    if accelerator is None:
        trainer.accelerator.end_training()
    return final


def train_or_read(config: SAETrainConfig, store: ActivationStore, output: Path) -> SAE:
    """The SAE of a study in its folder; trained first if it is not there yet, or not to the end.

    Args:
        config: The settings.
        store: Activations to train on.
        output: Folder of the SAE.

    Raises:
        OtherSettings: If the folder is of other settings or activations.
        Interrupted: See :func:`train`, as what else may go wrong.
    """
    decisive = {name: value for name, value in config.to_dict().items() if name not in FREE_SETTINGS}
    activations = {name: store.manifest[name] for name in ("encoder", "images", "num_images", "fingerprint")}
    claim(output, {"training": decisive, "activations": activations})
    if not (output / TRAINING_NAME).is_file():
        rows, heldout = store.holdout(config.heldout_fraction, config.seed)
        SAETrainer(config, rows, heldout, output).train(resume=True)
    return SAE.from_pretrained(output)
