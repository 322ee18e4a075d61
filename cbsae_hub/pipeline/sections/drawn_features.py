"""The settings of the study of what features of a text encoder draw: training/drawn_features.py."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.studies import ChatJudgeSettings
from cbsae_hub.trainers.config import Count, Flag, Natural, Number


@dataclass(frozen=True, kw_only=True)
class DrawnFeaturesSection(Section, section="drawn_features"):
    """Settings of training/drawn_features.py in the repository: what do features of a Stable Diffusion's words draw?"""

    model: str
    """Folder or Hub id of the SAE of the text encoder."""
    scores: str
    """Folder of the neuron table, of ``cbsae score --words``."""
    pipeline: str
    """Folder or Hub id of the Stable Diffusion."""
    descriptive: str
    """Text file of nouns, adjectives and adverbs, one a line; or wordnet."""
    prompts: tuple[str, ...]
    """Prompts that are drawn to find attributes."""
    check: tuple[str, ...]
    """Other prompts, on which attributes are tested."""
    judge: str
    """CLIP that tests them, see ``judge`` of section `scores`."""
    explainer: str | ChatJudgeSettings
    """Model that says what has changed: Hub id or folder of an image-text model of transformers, or {model, base_url}
    of an endpoint that speaks OpenAI's protocol."""
    output: Path
    """Folder of the results."""
    together: Flag = False
    """Whether that model sees all pictures at once and is asked for differences; otherwise it says what each shows."""
    question: str | None = None
    """The question to it; null asks for one word, or for the differences."""
    max_new_tokens: Count = 16
    """Its answers end there at the latest."""
    neurons: Count = 100
    """How many of the neurons that fire on descriptive words, evenly spread over them."""
    strength: Number = 1.0
    """Length of the push, in 99th percentiles of the neuron's activation."""
    tokens: Literal["all", "words"] = "all"
    """Tokens that are pushed: all, padding too, or the prompt's own."""
    seeds: tuple[Natural, ...] = (0,)
    """Drawings of each prompt, by their seeds."""
    steps: Count = 20
    """Denoising steps."""
    guidance: Number = 7.5
    """Guidance of each drawing."""
    batch: Count = 8
    """Drawings at once."""
    seed: Natural = 0
    """Seed of random directions and of other features' attributes."""
