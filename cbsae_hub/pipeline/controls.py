"""Makes controls of a recipe's SAE, scores them as it was scored, and puts their figures beside it."""

import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from cbsae_hub.cards.facts import figures_of
from cbsae_hub.cards.write import write_card
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.hub.files import CONFIG_NAME, claim, write_json
from cbsae_hub.models import folder_revision
from cbsae_hub.models.base import CONTROLS_NAME
from cbsae_hub.pipeline.score import output_of, score, steer
from cbsae_hub.pipeline.sections import ControlsSection, SAESection, ScoresSection, SteerabilitySection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import Scores
from cbsae_hub.studies.layer_saes import train_or_read


def measure_controls(
    settings: ControlsSection,
    sae: SAESection,
    scores: ScoresSection,
    steering: SteerabilitySection | None = None,
    *,
    accelerator: Accelerator | None = None,
) -> dict[str, dict[str, float]]:
    """Trains and scores the controls; goes on where an earlier call stopped.

    Writes controls.json, and puts it beside the model of section `scores`, if that is a folder, and into its card.

    Args:
        settings: Section `controls`.
        sae: Section `sae`, of which ``control`` and ``output`` are not read.
        scores: Section `scores`, whose folder has the scores of the model.
        steering: Section `steerability`; read only if neurons are steered.
        accelerator: The run's; default a new one.

    Returns:
        Figures by control, and those of the model first: names of measures as the card's metadata has them.

    Raises:
        ValueError: If a setting cannot be, or a control in the folder is of other settings.
        OSError: If the model has no scores, or something is missing.
    """
    if settings.steered and steering is None:
        raise ValueError("section `controls` wants neurons steered: the recipe lacks a section `steerability`")
    accelerator = accelerator or make_accelerator(alone=True, mixed_precision=sae.mixed_precision)
    own = Scores.load(output_of(scores))
    of_training = {name: value for name, value in sae.config().to_dict(defaults=False).items() if name != "control"}
    claim(settings.output, {"sae": of_training, "scores": scores.recorded()})
    figures, store = {"model": figures_of(own.summary)}, ActivationStore.open(sae.activations)
    for control in tqdm(settings.controls, desc="controls", unit="control"):
        folder = settings.output / control
        train_or_read(sae.replace(control=control).config(), store, folder, accelerator)
        section = scores.replace(model=str(folder), output=folder / "scores")
        if not (folder / "scores" / "scores.json").is_file():
            score(section, accelerator=accelerator)
        if settings.steered and steering is not None:
            _steer(steering.replace(neurons=settings.steered, clip=None, unclip=None), section, accelerator)
        figures[control] = figures_of(Scores.load(folder / "scores").summary)
    content = {"settings": settings.to_dict(defaults=False), "figures": figures}
    write_json(settings.output / CONTROLS_NAME, content)
    _put_beside(Path(scores.model), content)
    return figures


def _steer(steering: SteerabilitySection, section: ScoresSection, accelerator: Accelerator) -> None:
    """Adds steerability to the scores of a control, unless an earlier call has."""
    if "steerability" not in Scores.load(output_of(section)).summary:
        steer(steering, section, accelerator=accelerator)


def _put_beside(folder: Path, content: dict[str, Any]) -> None:
    """Puts the figures beside a model in a folder, and into its card."""
    if not (folder / CONFIG_NAME).is_file():
        logging.warning("%s is no folder of a model: its card stays as it is", folder)
        return
    controls = {name: figures for name, figures in content["figures"].items() if name != "model"}
    write_json(folder / CONTROLS_NAME, {**content, "revision": folder_revision(folder), "figures": controls})
    write_card(folder)
