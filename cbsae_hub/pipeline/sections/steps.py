"""The settings of each step from pictures to a model that is evaluated, and of the dry run."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator
from pydantic.dataclasses import dataclass

from cbsae_hub.pipeline.recipe import Section
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.settings import Count, Flag, Integer, Natural, Number, Settings
from cbsae_hub.words import LINES


@dataclass(frozen=True, kw_only=True)
class ImageSource(Settings):
    """The images that a section reads."""

    images: str
    """Folder or Hub id; or ``module:function``, a function of your own that returns a map-style dataset."""
    images_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of that function."""
    images_revision: str | None = None
    """Branch, tag or commit of the images on the Hub."""
    split: str | None = None
    """Split of the images, several with "+". A function needs none."""

    @property
    def is_function(self) -> bool:
        """Whether the images come from a function of the user's."""
        return ":" in self.images

    @property
    def is_lines(self) -> bool:
        """Whether it is a file with a text a line instead."""
        return self.images.endswith(LINES)

    @classmethod
    def lacking(cls, settings: Mapping[str, Any]) -> list[str]:
        """See :meth:`Settings.lacking`."""
        images = str(settings.get("images"))
        needs_split = not (":" in images or images.endswith(LINES)) and settings.get("split") is None
        return super().lacking(settings) + ["split"] * needs_split

    def __post_init__(self) -> None:
        if not (self.is_function or self.is_lines) and self.split is None:
            raise ValueError("the recipe lacks split")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """The encoder, where it is more than a vision encoder: which tower of which model, and what of it is read."""

    model: str
    """Folder or Hub id: a CLIP, a SigLIP, a pipeline of diffusers or a LLaVA."""
    revision: str | None = None
    """Branch, tag or commit of the model on the Hub."""
    tower: Literal["vision", "text", "language", "projector"] = "vision"
    """Which part of it: its vision encoder, its text encoder, LLaVA's language model, or LLaVA's projector."""
    layer: Integer
    """Block whose output is read, from 0; negative ones count from the end. A projector has block 0 alone."""
    tokens: str | None = None
    """Which tokens: of texts words (null), text, end or all; of a language model image (null), prompt, answer or all;
    of a projector image (null); random:n of any."""
    prompt: str | None = None
    """The question to a LLaVA about images without one; null asks for a description."""
    max_new_tokens: Count | None = None
    """Length of LLaVA's answers at most, in tokens; null is 32."""

    @field_validator("layer", "tokens", mode="before")
    @classmethod
    def _is_one(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            raise ValueError("a list of layers or tokens is of a vision encoder: name it by `encoder: ID`, no mapping")
        return value

    @property
    def chosen_tokens(self) -> str:
        """The tokens, with the default of the tower."""
        return self.tokens or {"vision": "patches", "text": "words"}.get(self.tower, "image")

    @property
    def reads_texts(self) -> bool:
        """Whether the encoder reads texts alone."""
        return self.tower == "text"


@dataclass(frozen=True, kw_only=True)
class ActivationsSection(ImageSource, Section, section="activations"):
    """Settings of `cbsae extract`: what the encoder makes of the images, stored once for all trainings."""

    encoder: str | EncoderSettings
    """Folder or Hub id of the vision encoder, in the format of transformers: CLIP, SigLIP, DINO 1 to 3, plain ViT. Of
    another tower a mapping, which says the next three too."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the encoder on the Hub."""
    layer: Integer | tuple[Integer, ...] | None = None
    """Block whose output is read, from 0; negative ones count from the end, -2 is the last but one. Those of a list are
    read in one pass over the images."""
    tokens: str | tuple[str, ...] | None = None
    """Which tokens of a picture are stored: patches, cls, all, or random:n for n drawn ones; or a list of these."""
    column: str | None = None
    """Column of the texts that a text encoder reads (null is caption), or of questions to a LLaVA (null asks all the
    same). A text encoder reads a file NAME.txt, with a text a line, too: ``images`` names it."""
    output: Path
    """Folder of the store; with a list of layers or tokens that of a store for each, layer-5-cls."""
    dtype: Literal["float16", "float32"] | None = None
    """Type of the numbers in the store; null is float16."""
    images_per_shard: Count | None = None
    """Images in each of the store's files; null is 1,024."""
    batch_size: Count | None = None
    """Images in a forward pass; null is 256."""
    seed: Natural | None = None
    """Seed of the tokens that random:n draws; null is 0."""
    readers: Count | None = None
    """Threads that decode images; null is 1."""

    @classmethod
    def lacking(cls, settings: Mapping[str, Any]) -> list[str]:
        """See :meth:`Settings.lacking`."""
        missing = super().lacking(settings)
        of_vision = not isinstance(settings.get("encoder"), (Mapping, EncoderSettings))
        beside = [name for name in ("layer", "tokens") if of_vision and settings.get(name) is None]
        place = missing.index("encoder") + 1 if "encoder" in missing else 0
        return [*missing[:place], *beside, *missing[place:]]

    def __post_init__(self) -> None:
        super().__post_init__()
        beside = [name for name in ("encoder_revision", "layer", "tokens") if getattr(self, name) is not None]
        if isinstance(self.encoder, EncoderSettings) and beside:
            raise ValueError(f"{' and '.join(beside)} must stand in the mapping `encoder`, not beside it")
        encoders = self.encoders()
        if not encoders:
            raise ValueError("layer and tokens must not be empty lists")
        if self.is_lines and not encoders[0].reads_texts:
            raise ValueError(f"{self.images} has texts: only an encoder with tower: text reads them")

    @property
    def is_of_several(self) -> bool:
        """Whether there is a list of layers or tokens, each of which gets a store of its own."""
        return isinstance(self.layer, tuple) or isinstance(self.tokens, tuple)

    def encoders(self) -> list[EncoderSettings]:
        """The encoder with its layer and tokens, wherever the section says them; once for each store."""
        if isinstance(self.encoder, EncoderSettings):
            return [self.encoder]
        if self.layer is None:
            raise ValueError("the recipe lacks layer")
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        tokens = self.tokens if isinstance(self.tokens, tuple) else (self.tokens,)
        model: dict[str, Any] = {"model": self.encoder, "revision": self.encoder_revision}
        return [EncoderSettings(**model, layer=layer, tokens=kind) for layer in layers for kind in tokens]


@dataclass(frozen=True, kw_only=True)
class SAESection(SAETrainConfig, Section, section="sae"):
    """Settings of `cbsae train`: the store, the output, and everything that decides the weights."""

    activations: Path
    """Folder of the store that `cbsae extract` wrote."""
    output: Path
    """Folder of the SAE, its log and its checkpoint."""

    def config(self) -> SAETrainConfig:
        """The training settings alone."""
        return self.part(SAETrainConfig)


@dataclass(frozen=True, kw_only=True)
class ScoresSection(Section, section="scores"):
    """Settings of `cbsae score`: what neurons are named with, and on which images."""

    model: str
    """Folder or Hub id of the SAE."""
    judge: str
    """Image-text model that names the neurons: ARCHITECTURE/TAG of open_clip, a folder or a Hub id."""
    images: str
    """Folder or Hub id of the images that neurons are scored on."""
    split: str
    """Split of these images, several with "+"."""
    concepts: dict[str, str]
    """Name to list of concepts: a text file with one a line, common (it comes with the package), or a published list
    (broden, 3k, 20k, vlg-cbm, decider). The first one names the neurons; coverage is reported of all."""
    similarity: str | None = None
    """Image model that measures MonoSemanticity, folder or id; null is the judge."""
    truth: dict[str, str] | None = None
    """Kind to column of labels that neurons are compared with. ``column.field`` reads a field of records, a ``?`` at
    the end makes a column that may be empty one label."""
    tree: str | None = None
    """JSON file of a tree of concepts; it tells how general neurons are."""
    zero_shot: tuple[str, ...] | None = None
    """Sentences with {} in the place of a class. With them the encoder's own text tower, if it has one, classifies the
    images of the first kind of truth, with reconstructions in the place of activations."""
    encoder: str | None = None
    """Folder or id of the encoder, instead of the one that the SAE's config names."""
    top_k: Count | None = None
    """Images that a neuron is named by; null is 100. Take fewer where most neurons fire on fewer images."""
    batch_size: Count = 64
    """Images in a forward pass."""
    output: Path | None = None
    """Folder of the scores."""

    def recorded(self) -> dict[str, Any]:
        """The settings that scores.json has: where scores are written does not change them."""
        return self.replace(output=None).to_dict(defaults=False)


@dataclass(frozen=True, kw_only=True)
class WordsSection(ImageSource, Section, section="words"):
    """Settings of `cbsae score --words`: the texts by whose words the neurons of a text encoder are named."""

    model: str
    """Folder or Hub id of an SAE of a text encoder or a language model."""
    column: str | None = None
    """Column of the texts, or of questions to a LLaVA; null is as in section `activations`."""
    encoder: str | None = None
    """Folder or id of the encoder, instead of the one that the SAE's config names."""
    batch_size: Count = 64
    """Texts in a forward pass."""
    seed: Natural = 0
    """Seed of the words at random that tell what a name is worth."""
    output: Path
    """Folder of the scores."""


@dataclass(frozen=True, kw_only=True)
class SteerabilitySection(Section, section="steerability"):
    """Settings of `cbsae score --steer`: what speaks or draws while each neuron is set, and who judges that."""

    llava: str | None = None
    """Folder or Hub id of the LLaVA that reads this encoder; null leaves the text scores out."""
    sentences: str | None = None
    """Sentence transformer that compares LLaVA's words with a neuron's name; text scores need it."""
    clip: str | None = None
    """Image-text model of Pach et al.'s variant of the text score; null leaves that out."""
    unclip: str | None = None
    """Folder or Hub id of the Stable unCLIP that reads this encoder; null leaves the image scores out."""
    pictures: str | None = None
    """Image model that compares drawings with a neuron's top images; image scores need it."""
    neurons: Count | tuple[Natural, ...] | None = None
    """How many of the neurons with a name, from all groups alike; or their numbers; null is all."""
    alpha: Number = 50.0
    """The value that a neuron is set to."""
    unit: str | None = None
    """What alpha counts: absolute (null), or p99, the neuron's 99th percentile."""
    prompt: str | None = None
    """The question to LLaVA; null asks for one word."""
    drawn: Count | None = None
    """How many of these neurons unCLIP draws, evenly spread; null is all."""
    seeds: tuple[Natural, ...] | None = None
    """Seeds of each neuron's drawings; null is 0 alone."""
    steps: Count | None = None
    """Steps of a drawing; null is 20."""
    guidance: Number = 10.0
    """Guidance of a drawing."""
    main: str | None = None
    """The score that is called steerability: text_white, text_unit, image_white or image_unit; null is text_white if
    there is a LLaVA, else image_white."""
    seed: Natural | None = None
    """Seed of the random directions; null is 0."""


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """The neurons that a bottleneck keeps, by exactly one of count, share and threshold: ``neurons.pruning.prune``."""

    by: str | tuple[str, ...] = "both"
    """A column of the neuron table, several, or both: interpretability and steerability."""
    count: Count | None = None
    """How many neurons stay."""
    share: Number | None = None
    """Share of the neurons that stay, above 0 and up to 1."""
    threshold: Number | None = None
    """Score from which a neuron stays."""
    normalize: str | None = None
    """How scores are scaled before they are combined: minmax (null), rank or none."""
    combine: str | None = None
    """How columns are combined: sum (null), product or min."""
    weights: dict[str, Number] | None = None
    """Column to weight in a sum; null is 1 for all."""
    interpretability: str | None = None
    """The column that counts as interpretability; null is the one of that name, from CLIP-Dissect's score.
    name_correlation and name_ap are from a judge that did not name the neurons."""

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in (self.count, self.share, self.threshold)) != 1:
            settings = self.to_dict(defaults=False)
            raise ValueError(f"prune takes exactly one of count, share and threshold, got {settings}")


@dataclass(frozen=True, kw_only=True)
class CBSAESection(CBSAETrainConfig, Section, section="cbsae"):
    """Settings of `cbsae bottleneck`: what is pruned and added, and everything that decides the weights."""

    model: str
    """Folder or Hub id of the SAE."""
    scores: str
    """Folder of the neuron table by which neurons are pruned: that of the scores, or of a pack."""
    names: str | None = None
    """Folder of the table whose names decide which concepts are missing; null is ``scores``."""
    activations: Path
    """Folder of the store that the SAE was trained on."""
    teacher: str
    """Image-text model that the concepts are learnt from; see ``judge`` of the scores."""
    embeddings: Path
    """Folder of the teacher's embeddings of the images; they are computed once."""
    concepts: str
    """The list of concepts that the model is to have; see ``concepts`` of the scores."""
    prune: PruneSettings
    """Which neurons stay, see :class:`PruneSettings`."""
    output: Path
    """Folder of the model, its log and its checkpoint."""
    cb_k: Count = 5
    """Concepts that are active at once."""
    cb_activation: str = "topk_relu"
    """Which: topk_relu, the largest, if positive; topk_signed, the largest; topk_abs, those of the largest size."""
    min_percentile: Number = 0.0
    """A name counts from this percentile among neurons with random images; 0.95 leaves out names by chance."""
    force: Flag = False
    """Whether concepts get a neuron that are names of retained neurons already."""

    def config(self) -> CBSAETrainConfig:
        """The training settings alone."""
        return self.part(CBSAETrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluationSection(Section, section="evaluate"):
    """Settings of `cbsae evaluate`; those of other sections that it replaces, and what it varies."""

    judges: dict[str, str]
    """Name to folder or id of an image-text model; the first one judges all models."""
    seeds: tuple[Natural, ...]
    """Seeds with which the bottleneck is trained."""
    output: Path
    """Folder of the tables, the figures and all models."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name to settings of section `cbsae` that differ."""
    shares: tuple[Number, ...] = ()
    """Shares of the neurons that are retained, a model each."""
    ks: tuple[Count, ...] = ()
    """k of the bottleneck, a model each."""
    steps: Count | None = None
    """Instead of those of section `cbsae`."""
    drawn: Count | None = None
    """Instead of that of section `steerability`."""
    concepts: dict[str, str] | None = None
    """Instead of those of section `scores`."""
    truth: dict[str, str] | None = None
    """Instead of that of section `scores`."""
    zero_shot: tuple[str, ...] | None = None
    """Instead of that of section `scores`."""

    def variants_of(self, base: CBSAESection) -> dict[str, CBSAESection]:
        """The settings of each model that is trained, by its name; all but the seeds have the first seed.

        Args:
            base: The recipe's section `cbsae`.

        Raises:
            ValueError: Names the variant whose settings are wrong.
        """
        first: dict[str, Any] = {"seed": self.seeds[0]}
        pruned = {"by": base.prune.by, "interpretability": base.prune.interpretability}
        changes = {
            **{f"seed-{seed}": {"seed": seed} for seed in self.seeds},
            **{name: first | one for name, one in self.variants.items()},
            **{f"share-{s:g}": first | {"prune": {**pruned, "share": s}} for s in self.shares},
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
class DryRunSection(Section, section="dry_run"):
    """Facts of models and images that `cbsae dry-run` cannot read where they are absent."""

    encoder: dict[str, Any] | None = None
    """The encoder's config in transformers."""
    pixels: Count | tuple[Count, Count] | None = None
    """Side of the images that the encoder reads, or height and width; null is as its processor or its config says."""
    images: Count | None = None
    """Number of images that activations are stored of."""
    probe_images: Count | None = None
    """Number of images that neurons are scored on."""
    tokens_per_text: Number | None = None
    """Mean number of tokens that are stored of a text, or of a question to a LLaVA, where they differ."""
    images_gb: Number = 0.0
    """Size of the images' download."""
    models_gb: dict[str, Number] = field(default_factory=dict)
    """Model to size of its download."""
    by_hand: str | None = None
    """What a person has to do before anything can be downloaded."""
