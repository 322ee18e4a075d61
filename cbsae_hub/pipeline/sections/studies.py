"""The settings of each study: what a script of ``training/`` reads of a recipe."""

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.steps import ImageSource
from cbsae_hub.trainers.settings import Count, Flag, Integer, Natural, Number, Settings


@dataclass(frozen=True, kw_only=True)
class ChatJudgeSettings(Settings):
    """A language model behind an endpoint that speaks OpenAI's protocol."""

    model: str
    """Its name there."""
    base_url: str | None = None
    """Address of the endpoint; null is OpenAI's."""


@dataclass(frozen=True, kw_only=True)
class InsertionSection(Section, section="insertion"):
    """Settings of training/insertion.py in the repository: are concepts inserted into LLaVA's answers, and removed?"""

    model: str
    """Folder or Hub id of the SAE."""
    llava: str
    """Folder or Hub id of the LLaVA."""
    images: str
    """Folder or Hub id of the images on which neurons were scored."""
    split: str
    """Split of these images."""
    scores: str
    """Folder of the neuron table."""
    prompts: tuple[str, ...]
    """Open questions to LLaVA."""
    judge: str | ChatJudgeSettings
    """A function of your own, ``module:function``, or a language model, ``{model, base_url}``."""
    output: Path
    """Folder of the results."""
    neurons: Count = 100
    """How many neurons."""
    where: dict[str, Any] = field(default_factory=dict)
    """Columns of the neuron table and what they must be."""
    blanks: str | None = None
    """Split whose images concepts are inserted into; null is a white one."""
    batch: Count = 16
    """Questions at once."""
    alpha: Number | None = None
    """Value of neurons for insertion; null is 50."""
    beta: Number | None = None
    """Minus their value for suppression; null is 50."""
    keep_error: Flag | None = None
    """Whether what the SAE loses is put back; null is no, as in the paper."""
    max_new_tokens: Count | None = None
    """Answers end there at the latest; null is 64."""
    seed: Natural | None = None
    """Seed of random images, of directions and of the neurons that are chosen; null is 0."""


@dataclass(frozen=True, kw_only=True)
class SweepSection(ImageSource, Section, section="sweep"):
    """Settings of training/sweep.py in the repository: a grid of SAEs, one table. What is null is as in `sae`."""

    encoder: str
    """See section `activations`."""
    layers: tuple[Integer, ...]
    """Blocks, see ``layer`` of section `activations`."""
    tokens: str
    """See section `activations`."""
    expansions: tuple[Count, ...]
    """Neurons per dimension of the activations."""
    similarity: str
    """Image model that measures MonoSemanticity."""
    probe_images: str
    """Folder or Hub id of the images that neurons are scored on."""
    probe_split: str
    """Split of these images."""
    output: Path
    """Folder of the table and of all SAEs."""
    images_per_shard: Count | None = None
    """See section `activations`."""
    k: Count | None = None
    """See section `sae`, as all that follow."""
    steps: Count | None = None
    """Steps of each training."""
    batch_size: Count | None = None
    """Tokens per step."""
    lr: Number | str | None = None
    """Learning rate."""
    warmup_steps: Natural | None = None
    """Steps in which it rises."""
    decay_start: Natural | None = None
    """Step from which it falls."""
    dead_after_tokens: Count | None = None
    """Tokens after which a neuron that has not fired is dead."""
    seed: Natural | None = None
    """Seed of the trainings."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotSteeringSection(Section, section="zero_shot_steering"):
    """Settings of training/zero_shot_steering.py in the repository: how strongly neurons steer CLIP's answers."""

    model: str
    """Folder or Hub id of the SAE."""
    clip: str
    """Folder or Hub id of the CLIP that it explains."""
    vocabulary: str
    """The list of concepts that CLIP chooses from; see ``concepts`` of the scores."""
    images: str
    """Folder or Hub id of the images."""
    split: str
    """Split of these images."""
    images_count: Integer
    """How many of them."""
    output: Path
    """Folder of the results."""
    strengths: tuple[float, ...] | None = None
    """Values that neurons are set to; null is ``cbsae_hub.steering.clip.STRENGTHS``."""
    neurons: Integer | Literal["all"] = "all"
    """How many neurons."""
    gamma: Number = 0.1
    """Neurons whose score is above this are counted by share."""
    beta: Number = 0.5
    """Neurons whose score is above this are counted by number."""
    seed: Natural = 0
    """Seed of the images and neurons that are drawn."""


@dataclass(frozen=True, kw_only=True)
class PairsSection(Section, section="pairs"):
    """Settings of training/pairs.py in the repository: do neurons answer to one thing, and to nothing else?"""

    model: str
    """Folder or Hub id of the SAE."""
    images: str
    """Folder or Hub id of the labelled images, on which coalitions of neurons are found."""
    split: str
    """Split of these images, several with "+"."""
    pairs: str
    """Folder or Hub id of the pairs of images that differ in one thing."""
    pairs_split: str
    """Split of the pairs, several with "+"."""
    truth: dict[str, str]
    """Kinds of labels and their columns, see ``truth`` of section `scores`."""
    output: Path
    """Folder of the results."""
    seeds: tuple[Natural, ...] | None = None
    """Seeds of the controls that are random; null is 0, 1 and 2."""
    most: Count | None = None
    """Largest number of neurons in a coalition; null is 8."""
    steered: Count | None = None
    """How many of the labelled images are steered; null is 16."""
    strength: Number | None = None
    """Length of the push that steers, in median lengths of a token's activation; null is 1."""
    min_images: Count | None = None
    """Labels on fewer images are left out; null is 10."""
    batch: Count | None = None
    """Images at once; null is 64."""
    seed: Natural | None = None
    """Seed of halves and of the images that are steered; null is 0."""


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
