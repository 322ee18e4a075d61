"""The settings of studies of a CLIP: every layer, what is spurious, and words on pictures."""

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.steps import ImageSource
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.settings import Count, Integer, Natural, NotNegative, Number, Positive, Settings


@dataclass(frozen=True, kw_only=True)
class LayersSection(ImageSource, Section, section="layers"):
    """Settings of training/layers.py in the repository: SAEs at every layer of a CLIP, and how far they steer it."""

    encoder: str
    """Folder or Hub id of the CLIP, with its text tower."""
    probe_images: str
    """Folder or Hub id of the images on which SAEs are measured."""
    probe_split: str
    """Split of these images."""
    labels: str
    """Column of their classes, as in ``truth`` of section `scores`."""
    vocabulary: str
    """The list of concepts that CLIP chooses from while it is steered; see ``concepts`` of section `scores`."""
    output: Path
    """Folder of stores, SAEs, tables and figures."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the CLIP on the Hub."""
    layers: tuple[Integer, ...] | None = None
    """Blocks, see ``layer`` of section `activations`; null is all."""
    tokens: tuple[str, ...] = ("all", "cls")
    """Tokens, an SAE for each: all is patches and CLS."""
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to settings of section `sae` that make a kind of SAE; one is trained for each layer, tokens and seed."""
    sae: dict[str, Any] = field(default_factory=dict)
    """Settings of section `sae` that all kinds share."""
    seeds: tuple[Natural, ...] = (0,)
    """Seeds of the trainings."""
    published: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a kind to folders or Hub ids of SAEs of this CLIP, which are measured as they are."""
    images_per_shard: Count | None = None
    """See section `activations`."""
    probe_count: Count | None = None
    """Number of the probe images, drawn; null is all."""
    zero_shot: tuple[str, ...] = ("{}",)
    """Sentences with {} in the place of a class."""
    words: Count | None = None
    """Number of the vocabulary's words, the first of them; null is all."""
    steered_images: Count = 8
    """Number of the probe images that are steered, the first of those drawn."""
    neurons: Count | None = None
    """Number of neurons of each SAE that are steered, drawn; null is all."""
    strength: Number = 150.0
    """Value that they are set to; the paper's is 150."""
    curves: tuple[Number, ...] | None = None
    """Values that the strongest of them is set to; null is ``cbsae_hub.steering.clip.STRENGTHS``."""
    gamma: Number = 0.1
    """Neurons whose score is above this are counted by share."""
    beta: Number = 0.5
    """Neurons whose score is above this reach a word."""
    seed: Natural = 0
    """Seed of what is drawn, and of random directions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds and not self.published:
            raise ValueError("there is nothing to measure: give kinds of SAEs to train, or published ones")
        if twice := sorted(self.kinds.keys() & self.published.keys()):
            raise ValueError(f"trained and published SAEs need different names: {', '.join(twice)}")
        if not (self.tokens and self.seeds) or self.layers == ():
            raise ValueError("layers, tokens and seeds must not be empty lists")

    def configs(self) -> dict[str, SAETrainConfig]:
        """The settings with which each kind of SAE is trained, but for the seed.

        Raises:
            ValueError: Names the kind whose settings are wrong.
        """
        configs = {}
        for name, kind in self.kinds.items():
            try:
                configs[name] = SAETrainConfig.from_dict({**self.sae, **kind})
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return configs


@dataclass(frozen=True, kw_only=True)
class AttributeSettings(Settings):
    """The images that have an attribute."""

    column: str
    """Column of the images."""
    values: tuple[bool | int | str, ...]
    """Values of it that mean that the attribute is there."""


@dataclass(frozen=True, kw_only=True)
class TargetSettings(Settings):
    """The classes of images."""

    column: str
    """Column of the images."""
    classes: dict[str, tuple[bool | int | str, ...]]
    """Name of a class to the values of the column that mean it."""


@dataclass(frozen=True, kw_only=True)
class SuppressionSection(Section, section="suppression"):
    """Settings of `cbsae suppress`: does a CLIP answer better if what follows a spurious attribute is suppressed?

    What is null of the training of SAEs is as in `sae`.
    """

    encoder: str
    """Folder or Hub id of the CLIP or SigLIP; its text tower names the classes."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the encoder on the Hub."""
    images: str
    """Folder or Hub id of the labelled images; with ``tables``, a folder of pictures."""
    images_revision: str | None = None
    """Branch, tag or commit of these images on the Hub."""
    tables: tuple[str, ...] = ()
    """CSV or Parquet files with the labels, relative to ``images``; none, if the dataset has columns itself."""
    file_column: str | None = None
    """Column of the tables that names the picture's file, relative to ``images``."""
    split_column: str | None = None
    """Column of the tables that says of which split a picture is."""
    train: str
    """Split on which features are found; with ``split_column``, the value that stands for it."""
    val: str
    """Split on which tau is chosen."""
    test: str
    """Split that accuracies are reported of."""
    attribute: AttributeSettings
    """The spurious attribute, ``{column, values}``: values of a column that mean that it is there."""
    target: TargetSettings
    """The classes, ``{column, classes}``: name of a class to the values of a column that mean it."""
    prompts: dict[str, tuple[str, ...]] | None = None
    """Name of a class to the texts that the encoder reads for it, whose embeddings are averaged; null is the name."""
    templates: tuple[str, ...] = ("{}",)
    """Sentences with {} in the place of these texts."""
    layers: tuple[Integer, ...] | None = None
    """Blocks, see ``layer`` of section `activations`; null is all, or those of ``saes``."""
    saes: tuple[str, ...] | None = None
    """Folders or Hub ids of SAEs, several of a layer as seeds; null trains them, on ``sae_images``."""
    sae_images: ImageSource | None = None
    """Images that SAEs are trained on: ``{images, split}``, or ``{images, images_args}`` of a function of your own."""
    tokens: str = "all"
    """Tokens that SAEs are trained on, see section `activations`."""
    seeds: tuple[Natural, ...] = (0, 1, 2)
    """Seeds of the SAEs that are trained, one each a layer."""
    expansion: Count | None = None
    """Neurons per dimension; see section `sae`, as all until ``dead_after_tokens``."""
    k: Count | None = None
    """Active latents per token."""
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
    taus: tuple[Positive, ...] | None = None
    """Thresholds of equation 9; null is 25 from 1e-6 to 1."""
    pool: Literal["mean", "max", "cls"] = "mean"
    """Activation of a neuron on an image: mean or maximum over tokens, or that of CLS."""
    drop: NotNegative = 0.04
    """Largest loss of a group's accuracy that the relaxed rule allows."""
    batch: Count = 64
    """Images at once."""
    output: Path
    """Folder of the tables, the figures and the SAEs."""

    def __post_init__(self) -> None:
        if (self.saes is None) == (self.sae_images is None):
            raise ValueError("suppression takes exactly one of saes and sae_images: SAEs, or images to train them on")
        unknown = sorted(set(self.prompts or ()) ^ set(self.target.classes)) if self.prompts is not None else []
        if unknown:
            raise ValueError(f"prompts and the classes of target must have the same names; {', '.join(unknown)} differ")
        if len(self.target.classes) < 2:
            raise ValueError("target needs two classes at least: the encoder has to choose")


@dataclass(frozen=True, kw_only=True)
class TypographicSection(Section, section="typographic"):
    """Settings of training/typographic.py in the repository: words on pictures mislead CLIP; what defends it?"""

    model: str
    """Folder or Hub id of the SAE, at the last layer of the CLIP."""
    model_recipe: Path | None = None
    """Recipe whose sections `activations` and `sae` make the SAE, where it is not there yet; null makes none."""
    clip: str
    """Folder or Hub id of the CLIP that it explains."""
    images: str
    """Folder or Hub id of the pictures that words are written on; those with exactly one label count."""
    split: str
    """Split of these pictures on which features are found, the prefix is learnt, and settings are chosen."""
    test_split: str
    """Split on which defences are compared."""
    label: str
    """Column of what they show, see ``truth`` of the scores."""
    output: Path
    """Folder of the results."""
    attack: str | None = None
    """A function of your own, ``module:function``, that writes a word; null writes it as Azuma and Matsui (2023)."""
    fonts: tuple[str, ...] = ()
    """Font files for that; empty are those that the system has."""
    benchmarks: dict[str, Path] = field(default_factory=dict)
    """Names and folders of published attacks: RTA-100, PAINT, and that of Materzynska et al. (2022)."""
    count: Count = 1000
    """Pictures of ``split`` on which features are found and the prefix is learnt."""
    validation_count: Count = 500
    """Other ones of ``split`` on which tau, lambda and the learning rate are chosen."""
    test_count: Count = 1000
    """Pictures of ``test_split``."""
    template: str = "a photo of a {}."
    """Prompt with ``{}`` for a class."""
    templates: tuple[str, ...] | None = None
    """Prompts with which the prefix is learnt; null is ``template`` alone."""
    taus: tuple[Number, ...] | None = None
    """Thresholds of the difference of mean latents; null is ``cbsae_hub.studies.typographic.TAUS``."""
    lambdas: tuple[Number, ...] | None = None
    """Cosines above which other features are taken in; null is ``cbsae_hub.studies.typographic.LAMBDAS``."""
    prefix_rates: tuple[Positive, ...] = (0.002,)
    """Learning rates of the prefix to choose from."""
    prefix_epochs: Count = 10
    """Passes over the pictures that it learns from."""
    prefix_batch: Count = 512
    """Pictures a step."""
    seeds: tuple[Natural, ...] = (0, 1, 2)
    """Seeds of the attacks, of the prefix and of random features."""
