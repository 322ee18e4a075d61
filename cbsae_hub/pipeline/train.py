"""Trains a sparse autoencoder on stored activations."""

from accelerate import Accelerator

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.pipeline.sections import SAESection
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
