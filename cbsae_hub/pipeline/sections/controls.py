"""The settings of what an SAE is compared with: controls, and SAEs from other seeds."""

from pathlib import Path
from typing import get_args

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.trainers.config import Control
from cbsae_hub.trainers.settings import Count, Natural, Positive


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


@dataclass(frozen=True, kw_only=True)
class DictionarySection(Section, section="dictionary"):
    """Settings of training/dictionary.py in the repository: is a neuron found again from other seeds?

    The training is that of section `sae`, the neuron table that of section `scores`.
    """

    output: Path
    """Folder of the SAEs from other seeds, and of the results."""
    seeds: tuple[Natural, ...] = (1, 2)
    """These seeds; that of section `sae` must not be among them."""
    threshold: Positive = 0.7
    """Cosine from which a neuron of another seed counts as the same."""
    alike: Count = 5
    """Neurons of another seed whose span a neuron is compared with."""
