"""The settings of studies of what SAEs at many layers represent: kinds, shifted images, and words beside pictures."""

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.pipeline.sections.steps import ImageSource
from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.settings import Count, Flag, Integer, Natural, Number


@dataclass(frozen=True, kw_only=True)
class LayerSAEs(ImageSource):
    """The SAEs of a study of many layers; ``images`` are those that they are trained on."""

    tokens: str
    """See section `activations`."""
    saes: Path
    """Folder of the activations and SAEs of all layers. Studies with the same settings may share it."""
    layers: tuple[Integer, ...] | None = None
    """Blocks, see ``layer`` of section `activations`; null is all."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of the SAEs that are not the default, as in section `sae`."""
    output: Path
    """Folder of the results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            SAETrainConfig.from_dict(self.train)
        except ValueError as error:
            raise ValueError(f"train: {error}") from error


@dataclass(frozen=True, kw_only=True)
class OntologySection(LayerSAEs, Section, section="ontology"):
    """Settings of training/ontology.py in the repository: which features stand for a kind of things?"""

    encoder: str
    """Folder or Hub id of the vision encoder."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the encoder on the Hub."""
    probe_images: str
    """Folder or Hub id of the images on which features are looked at."""
    probe_split: str
    """Split of these images, several with "+"."""
    label: str
    """Their column of labels, see ``truth`` of section `scores`."""
    tree: str
    """JSON file of a tree with the labels as leaves; or wordnet, for labels that are its synsets or their ids."""
    classes: Path | None = None
    """Text file with the labels of the numbers in the column, one a line: WordNet's ids, of ImageNet on the Hub."""
    best: Natural = 8
    """How many of the best features are shown with pictures and relevancy maps."""
    figure_layers: tuple[Integer, ...] | None = None
    """Blocks of the figure of densities; null is the last four of those that were looked at."""
    seed: Natural = 0
    """Seed of the controls."""


@dataclass(frozen=True, kw_only=True)
class ShiftedImages(ImageSource):
    """Images that a probe was not trained on."""

    label: str | None = None
    """Column of labels; null is that of the training images. Those of far images are not read."""
    kind: Literal["shift", "near", "far"] = "shift"
    """shift: the same classes, drawn or taken otherwise. near, far: images that are to be told from the usual ones."""
    mask: Flag = False
    """Whether the probe chooses among the classes of these images alone, as for ImageNet-A and ImageNet-R."""


@dataclass(frozen=True, kw_only=True)
class ProbingSection(LayerSAEs, Section, section="probing"):
    """Settings of training/probing.py in the repository: what probes of SAE latents are worth on shifted images."""

    encoders: dict[str, str]
    """Name to folder or Hub id of a vision encoder."""
    encoder_revisions: dict[str, str] = field(default_factory=dict)
    """Name to branch, tag or commit of the encoder on the Hub."""
    label: str
    """Column of labels of the training images, see ``truth`` of section `scores`; images with one label count."""
    usual: str
    """The set of ``sets`` that is like the training images: the others are told from it."""
    sets: dict[str, dict[str, Any]]
    """Name to images that the probes are read on: images, images_args, images_revision, split, label (a column; null is
    that of the training images), kind (shift: the same classes; near or far: images that are to be told from the usual
    ones, too) and mask (true: the probe chooses among the classes of these images alone, as for ImageNet-A and -R)."""
    expansions: tuple[Count, ...] = ()
    """Neurons per dimension in the sweep."""
    sparsities: dict[Literal["relu", "topk", "gated"], tuple[Number, ...]] = field(default_factory=dict)
    """Kind of SAE to its weights of the penalty, of topk to its numbers of active latents, in the sweep."""
    layer_tokens: tuple[str, ...] = ("cls", "patches")
    """Tokens of the SAEs that are looked at layer by layer."""
    least_images: Count = 5
    """Labels on fewer training images are left out."""
    seeds: tuple[Natural, ...] = (0, 1, 2)
    """Seeds of SAEs, random features and the images on which penalties are chosen; the sweep has the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.sets:
            self.set_of(name)
        if not self.seeds:
            raise ValueError("seeds: at least one is needed")
        if self.usual not in self.sets:
            raise ValueError(f"usual is {self.usual!r}, which is none of the sets {', '.join(self.sets)}")

    def set_of(self, name: str) -> ShiftedImages:
        """The images of a set; raises a ValueError that names it if its settings are wrong."""
        try:
            return ShiftedImages.from_dict(self.sets[name])
        except ValueError as error:
            raise ValueError(f"sets.{name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class OverlapSection(LayerSAEs, Section, section="overlap"):
    """Settings of training/overlap.py in the repository: what do words and pictures share inside a LLaVA?

    Its SAEs are of the language model's ``layers``, and of the projector.
    """

    llava: str
    """Folder or Hub id of the LLaVA."""
    llava_revision: str | None = None
    """Branch, tag or commit of the LLaVA on the Hub."""
    probe_images: str
    """Folder or Hub id of the pictures of the classes."""
    probe_split: str
    """Split of these pictures, several with "+"."""
    label: str
    """Their column of labels, see ``truth`` of section `scores`; pictures with one label count."""
    prompt: str | None = None
    """The question about every picture, which must not name a class; null asks for a description."""
    question: str = "What is {a}?"
    """The question about a class without a picture: {name} is its name, up to a comma, and {a} that with an article."""
    max_new_tokens: Count = 32
    """Length of answers at most, in tokens."""
    pictures: Count = 4
    """Pictures of each class, at most."""
    top: Number = 0.01
    """Share of the features that count as a class's top ones."""
    active: Number = 0.25
    """Share of the patches that count as active."""
    examples: Natural = 6
    """How many pictures are drawn with their maps."""
    batch: Count = 16
    """Questions at once."""
    seed: Natural = 0
    """Seed of the pictures that are drawn, of the control, and of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top", "active"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if "{a}" not in self.question and "{name}" not in self.question:
            raise ValueError(f"question must hold {{a}} or {{name}}, where a class is named, got {self.question!r}")
