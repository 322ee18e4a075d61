"""The settings of the tests of names and of their scores: training/sanity.py and training/names.py."""

from pathlib import Path

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.studies import ChatJudgeSettings
from cbsae_hub.trainers.settings import Count, Natural, Number


@dataclass(frozen=True, kw_only=True)
class SanitySection(Section, section="sanity"):
    """Settings of training/sanity.py in the repository: do scores fall when labels are wrong?

    Model, images and labels are those of section `scores`.
    """

    output: Path
    """Folder of the results."""
    least_ap: Number = 0.5
    """Average precision of its best label from which a neuron is tested with that label."""
    neurons: Count = 500
    """How many of these neurons, at most."""
    draws: Count = 5
    """How many times labels are changed at random."""
    seed: Natural = 0
    """Seed of the changes."""


@dataclass(frozen=True, kw_only=True)
class NamesSection(Section, section="names"):
    """Settings of training/names.py in the repository: what are the names of neurons worth, and what other names?

    Model, names and their judge are those of section `scores`.
    """

    judge: str
    """Image-text model that tests the names, and has not given them; see ``judge`` of section `scores`."""
    split: str
    """Split of the images that they are tested on, which must not be those of section `scores`."""
    output: Path
    """Folder of the results."""
    images: str | None = None
    """Folder or Hub id of these images; null is as in section `scores`."""
    others: Count = 100
    """How many names of other neurons a name is compared with."""
    concepts: Count = 5
    """Most concepts of a linear explanation."""
    trial: Count = 10
    """Images on which a neuron fires that the judge has to tell from as many others."""
    neurons: Count = 200
    """How many neurons are explained in all ways, evenly spread over those with a name."""
    llava: str | None = None
    """Folder or Hub id of the LLaVA that explains neurons in its own words; null leaves that out."""
    alpha: Number = 50.0
    """How much of a neuron's direction is added."""
    tops: Count = 5
    """Top images of a neuron that LLaVA and other explainers look at, masked."""
    prompt: str | None = None
    """The question to LLaVA and other explainers; null asks for one word."""
    max_new_tokens: Count = 16
    """Answers end there at the latest."""
    explainers: tuple[str | ChatJudgeSettings, ...] = ()
    """Further models that look at the masked top images: Hub ids or folders of image-text models of transformers, or
    {model, base_url} of an endpoint that speaks OpenAI's protocol."""
    seed: Natural = 0
    """Seed of all draws."""
