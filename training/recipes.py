"""Recipes: one YAML file per model, with one flat section per script; each section is a dataclass."""

from collections.abc import Callable, Sequence
from dataclasses import field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from cbsae_hub.hub.files import read_text
from cbsae_hub.trainers.config import CBSAETrainConfig, Count, Flag, Integer, Natural, Number, SAETrainConfig, Settings


class Section(Settings):
    """A section of a recipe; ``section``, an argument of its class, is its name there."""

    section: ClassVar[str]

    def __init_subclass__(cls, section: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.section = section

    @classmethod
    def read(cls, recipe: Path | None, overrides: Sequence[str] | None = None, **options: Any) -> Self:
        """Reads the section from a recipe, or None; overrides ``key=value``, in YAML, take precedence.

        Options that are not None take precedence over both.

        Raises:
            ValueError: If the recipe is not YAML or lacks the section, an override is not of that form, or a setting is
                missing, unknown or out of range.
        """
        settings = read_settings(recipe, cls.section, overrides or ())
        return cls.from_dict(settings | {name: value for name, value in options.items() if value is not None})

    @classmethod
    def read_or_default(cls, recipe: Path | None, **options: Any) -> Self:
        """Does as :meth:`read`; where the recipe has no such section, the defaults."""
        there = recipe is not None and cls.section in read_sections(recipe)
        return cls.read(recipe if there else None, **options)

    def chosen(self, *names: str) -> dict[str, Any]:
        """Those of the named settings that are not None, as arguments of what has the defaults of the others."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def read_settings(recipe: Path | None, section: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Reads a section, unchecked; arguments and errors are those of :meth:`Section.read`."""
    settings: dict[str, Any] = {}
    if recipe is not None:
        sections = read_sections(recipe)
        if not isinstance(sections.get(section), dict):
            raise ValueError(f"{recipe} has no section {section!r}; it has {', '.join(map(str, sections))}")
        settings = dict(sections[section])
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, got {override!r}")
        settings[key.strip()] = _parse(value, f"--set {override}")
    return settings


def read_sections(recipe: Path) -> dict[str, Any]:
    """Reads all sections of a recipe, unchecked; raises a ValueError if the file is not YAML of sections."""
    sections = _parse(read_text(recipe), str(recipe)) or {}
    if not isinstance(sections, dict):
        raise ValueError(f"{recipe} holds no sections")
    return sections


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from error


def load_function(source: str) -> Callable[..., Any]:
    """Imports a function that a recipe names as ``module:function``; raises a ValueError if there is none."""
    module, _, function = source.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{source!r} is no module:function of this checkout: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ImageSource(Settings):
    """The images that a section reads."""

    images: str
    """Folder or Hub id; or ``module:function``, a function of this checkout that returns a map-style dataset."""
    images_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of that function."""
    images_revision: str | None = None
    split: str | None = None

    @property
    def is_function(self) -> bool:
        """Whether the images come from a function of this checkout."""
        return ":" in self.images

    def __post_init__(self) -> None:
        if not self.is_function and self.split is None:
            raise ValueError("the recipe lacks split")


@dataclass(frozen=True, kw_only=True)
class ActivationsSection(ImageSource, Section, section="activations"):
    """Settings of extract_activations.py."""

    encoder: str
    encoder_revision: str | None = None
    layer: Integer
    tokens: str
    output: Path
    dtype: Literal["float16", "float32"] | None = None
    images_per_shard: Count | None = None
    batch_size: Count | None = None
    seed: Natural | None = None
    readers: Count | None = None
    """Threads that decode images."""


@dataclass(frozen=True, kw_only=True)
class SAESection(SAETrainConfig, Section, section="sae"):
    """Settings of train_sae.py: the store, the output, and everything that decides the weights."""

    activations: Path
    output: Path

    def config(self) -> SAETrainConfig:
        """The training settings alone."""
        return self.part(SAETrainConfig)


@dataclass(frozen=True, kw_only=True)
class ScoresSection(Section, section="scores"):
    """Settings of score_neurons.py and build_pack.py; see :meth:`NeuronScorer.from_pretrained`."""

    model: str
    judge: str
    images: str
    split: str
    concepts: dict[str, str]
    similarity: str | None = None
    truth: dict[str, str] | None = None
    tree: str | None = None
    zero_shot: tuple[str, ...] | None = None
    encoder: str | None = None
    top_k: Count | None = None
    batch_size: Count = 64
    output: Path | None = None

    def recorded(self) -> dict[str, Any]:
        """The settings that scores.json has: where scores are written does not change them."""
        return self.replace(output=None).to_dict(defaults=False)


@dataclass(frozen=True, kw_only=True)
class SteerabilitySection(Section, section="steerability"):
    """Settings of score_neurons.py --steer: models, neurons, and arguments of :class:`SteerabilityScorer`."""

    llava: str | None = None
    sentences: str | None = None
    clip: str | None = None
    unclip: str | None = None
    pictures: str | None = None
    neurons: Count | tuple[Natural, ...] | None = None
    alpha: Number = 50.0
    unit: str | None = None
    prompt: str | None = None
    drawn: Count | None = None
    seeds: tuple[Natural, ...] | None = None
    steps: Count | None = None
    guidance: Number = 10.0
    main: str | None = None
    seed: Natural | None = None


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """Arguments of :func:`cbsae_hub.neurons.pruning.prune`."""

    by: str | tuple[str, ...] = "both"
    count: Count | None = None
    share: Number | None = None
    threshold: Number | None = None
    normalize: str | None = None
    combine: str | None = None
    weights: dict[str, Number] | None = None

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in (self.count, self.share, self.threshold)) != 1:
            settings = self.to_dict(defaults=False)
            raise ValueError(f"prune takes exactly one of count, share and threshold, got {settings}")


@dataclass(frozen=True, kw_only=True)
class CBSAESection(CBSAETrainConfig, Section, section="cbsae"):
    """Settings of train_cbsae.py: what is pruned and added, and everything that decides the weights."""

    model: str
    scores: str
    """Folder of the neuron table by which neurons are pruned."""
    names: str | None = None
    """Folder of the table whose names decide which concepts are missing; default ``scores``."""
    activations: Path
    teacher: str
    embeddings: Path
    """Folder of the teacher's embeddings of the images; they are computed once."""
    concepts: str
    prune: PruneSettings
    output: Path
    cb_k: Count = 5
    cb_activation: str = "topk_relu"
    min_percentile: Number = 0.0
    force: Flag = False
    """Whether concepts get a neuron that are names of retained neurons already."""

    def config(self) -> CBSAETrainConfig:
        """The training settings alone."""
        return self.part(CBSAETrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluationSection(Section, section="evaluate"):
    """Settings of evaluate.py; those of other sections that it replaces, and what it varies."""

    judges: dict[str, str]
    """Name to folder or id; the first one judges all models."""
    seeds: tuple[Natural, ...]
    output: Path
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to settings of section `cbsae` that differ."""
    shares: tuple[Number, ...] = ()
    """Shares of the neurons that are retained."""
    ks: tuple[Count, ...] = ()
    """k of the bottleneck."""
    steps: Count | None = None
    drawn: Count | None = None
    concepts: dict[str, str] | None = None
    truth: dict[str, str] | None = None
    zero_shot: tuple[str, ...] | None = None

    def variants_of(self, base: CBSAESection) -> dict[str, CBSAESection]:
        """The settings of each model that is trained, by its name; all but the seeds have the first seed.

        A ValueError names the variant whose settings are wrong.
        """
        first: dict[str, Any] = {"seed": self.seeds[0]}
        changes = {
            **{f"seed-{seed}": {"seed": seed} for seed in self.seeds},
            **{name: first | one for name, one in self.variants.items()},
            **{f"share-{s:g}": first | {"prune": {"by": base.prune.by, "share": s}} for s in self.shares},
            **{f"k-{k}": first | {"cb_k": k} for k in self.ks},
        }
        variants = {}
        for name, one in changes.items():
            try:
                variants[name] = base.replace(**one)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return variants


@dataclass(frozen=True, kw_only=True)
class ChatJudgeSettings(Settings):
    """A language model behind an endpoint that speaks OpenAI's protocol."""

    model: str
    base_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class InsertionSection(Section, section="insertion"):
    """Settings of insertion.py; see :class:`InsertionExperiment`."""

    model: str
    llava: str
    images: str
    split: str
    scores: str
    prompts: tuple[str, ...]
    judge: str | ChatJudgeSettings
    """A function of this checkout, ``module:function``, or a language model."""
    output: Path
    neurons: Count = 100
    where: dict[str, Any] = field(default_factory=dict)
    """Columns of the neuron table and what they must be."""
    blanks: str | None = None
    """Split whose images concepts are inserted into; default a white one."""
    batch: Count = 16
    alpha: Number | None = None
    beta: Number | None = None
    keep_error: Flag | None = None
    max_new_tokens: Count | None = None
    seed: Natural | None = None


@dataclass(frozen=True, kw_only=True)
class SweepSection(ImageSource, Section, section="sweep"):
    """Settings of sweep.py: the grid, the images to score on, and training settings that all SAEs share."""

    encoder: str
    layers: tuple[Integer, ...]
    tokens: str
    expansions: tuple[Count, ...]
    similarity: str
    probe_images: str
    probe_split: str
    output: Path
    images_per_shard: Count | None = None
    k: Count | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    lr: Number | str | None = None
    warmup_steps: Natural | None = None
    decay_start: Natural | None = None
    dead_after_tokens: Count | None = None
    seed: Natural | None = None


@dataclass(frozen=True, kw_only=True)
class ZeroShotSteeringSection(Section, section="zero_shot_steering"):
    """Settings of zero_shot_steering.py."""

    model: str
    clip: str
    vocabulary: str
    images: str
    split: str
    images_count: Integer
    output: Path
    strengths: tuple[float, ...] | None = None
    """Default :data:`cbsae_hub.steering.clip.STRENGTHS`."""
    neurons: Integer | Literal["all"] = "all"
    gamma: Number = 0.1
    beta: Number = 0.5
    seed: Natural = 0


@dataclass(frozen=True, kw_only=True)
class DryRunSection(Section, section="dry_run"):
    """Facts of models and images that dry_run.py cannot read where they are absent."""

    encoder: dict[str, Any] | None = None
    """The encoder's config in transformers."""
    pixels: Count | tuple[Count, Count] | None = None
    """Side of the images that the encoder reads, or height and width; default as its processor or its config says."""
    images: Count | None = None
    probe_images: Count | None = None
    images_gb: Number = 0.0
    models_gb: dict[str, Number] = field(default_factory=dict)
    by_hand: str | None = None
    """What a person has to do before anything can be downloaded."""


SECTIONS: dict[str, type[Section]] = {one.section: one for one in Section.__subclasses__()}
