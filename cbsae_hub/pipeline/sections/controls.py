"""The settings of the controls that a model is compared with."""

from pathlib import Path
from typing import get_args

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.trainers.config import Control, Natural


@dataclass(frozen=True, kw_only=True)
class ControlsSection(Section, section="controls"):
    """Settings of training/controls.py in the repository: what does nonsense score, made of the same data?

    Data and training are those of section `sae`, images and judges those of section `scores`.
    """

    output: Path
    """Folder of the controls, each in a folder of its own, and of the results."""
    controls: tuple[Control, ...] = get_args(Control)
    """Which ones, see ``control`` of section `sae`."""
    steered: Natural = 0
    """How many neurons of each control are steered as section `steerability` says, by LLaVA alone; 0 for none."""
