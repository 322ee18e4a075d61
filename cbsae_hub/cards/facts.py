"""The facts of a model's card, which come from the files in its folder and from nothing else."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from huggingface_hub import EvalResult
from safetensors import safe_open

from cbsae_hub.hub.files import ModelFileError, folder_revision, read_json
from cbsae_hub.hub.references import told_elsewhere
from cbsae_hub.hub.results import revision_of_results

logger = logging.getLogger(__name__)

CONFIGS = ("config.json", "model_index.json", "open_clip_config.json")
CLASSES = ("SAE", "CBSAE")
OWN_SECTIONS = "sae_config sae_names imported_from parent pruning teacher concepts_sha256 parent_group_sizes".split()
LONG = ("concepts", "sae_neuron_ids")  # the card has only their lengths
DATASET_TYPE = re.compile(r"([\w-]+/)?[\w.-]+", re.ASCII)  # the Hub takes no other
METRICS = "metrics.json"
OF_WEIGHTS = {
    "training": "training.json", "evaluation": "evaluation.json", "pack": "pack.json", "controls": "controls.json",
    "metrics": METRICS,
}  # fmt: skip


class Measure(NamedTuple):
    """A number of a card, with what it means."""

    name: str
    key: str
    """Name of the measure on the Hub."""
    value: float
    control: float | None
    """The value of chance, or of the model without the SAE."""
    meaning: str
    better: int = 1
    """1 if more is better, -1 if less is, 0 if neither."""


@dataclass(frozen=True)
class Facts:
    """The results files of a folder. Those of other weights count as missing, with a warning.

    All must name their weights but metrics.json, which may be of somebody else's script.
    """

    folder: Path | None = None  # None of a model that is in memory only
    config: dict[str, Any] = field(default_factory=dict)  # of a model of any library; empty beside a dataset, say
    metrics: dict[str, Any] = field(default_factory=dict)  # metrics.json: results of an evaluation script
    training: dict[str, Any] = field(default_factory=dict)  # record of the training of an SAE or CB-SAE
    evaluation: dict[str, Any] = field(default_factory=dict)  # results of `cbsae evaluate`
    pack: dict[str, Any] = field(default_factory=dict)  # pack.json: scores of its neurons
    controls: dict[str, Any] = field(default_factory=dict)  # controls.json: figures of nonsense, by control and measure
    revision: str | None = None  # the folder_revision, None where there are no weights

    def __post_init__(self) -> None:
        """Leaves nothing of paths of this machine but their last names."""
        for name in ("config", *OF_WEIGHTS):
            content = getattr(self, name)
            object.__setattr__(self, name, _renamed(content, told_elsewhere(content)))

    @classmethod
    def read(cls, folder: str | Path) -> "Facts":
        """Reads what is there.

        Raises:
            ValueError: If a file is no JSON object.
        """
        folder = Path(folder)
        try:
            revision = folder_revision(folder)
        except ModelFileError:
            revision = None
        parts = {name: _object(folder / file) for name, file in OF_WEIGHTS.items()}
        for name, part in parts.items():
            own = revision_of_results(OF_WEIGHTS[name], part)
            if part and own != revision and (own is not None or name != "metrics"):
                logger.warning("%s is of other weights: the card is written without it", folder / OF_WEIGHTS[name])
                parts[name] = {}
        configs = [folder / name for name in CONFIGS if (folder / name).is_file()]
        return cls(folder, config=_object(configs[0]) if configs else {}, revision=revision, **parts)

    @property
    def model_class(self) -> str | None:
        """The class, "SAE" or "CBSAE"; None of what is neither."""
        name = self.config.get("model_class")
        return name if name in CLASSES else None

    @property
    def sae(self) -> dict[str, Any] | None:
        """The settings of the SAE, or of the one in a CB-SAE; None of what is neither."""
        return {"SAE": self.config, "CBSAE": self.config.get("sae_config")}.get(self.model_class or "")

    @property
    def parent(self) -> dict[str, Any]:
        """The SAE that a CB-SAE was made of: ``id``, ``revision``, ``d_sae``, as far as they are known."""
        parent = self.config.get("parent") or {}
        return parent if isinstance(parent, dict) else {"id": parent}

    @property
    def settings(self) -> dict[str, Any]:
        """Entries of an SAE's config for the card; None is left out."""
        config = {**self.config, **(self.sae or {})}
        config = {name: value for name, value in config.items() if name not in OWN_SECTIONS and value is not None}
        return {name: len(value) if name in LONG else value for name, value in config.items()}

    @property
    def speaker(self) -> str | None:
        """The LLaVA with which steerability was measured, None if it was not or that is not known."""
        llava = self.pack.get("scores", {}).get("steerability", {}).get("llava")
        return llava.get("id") if isinstance(llava, dict) else None

    @property
    def example_name(self) -> str:
        """The concept that an example steers with: the first of a bottleneck, else the best steered neuron's name."""
        if self.config.get("concepts"):
            return self.config["concepts"][0]
        frame = pd.read_parquet(self._path("neurons.parquet"), columns=["name", "steerability", "score"]).dropna()
        return frame.sort_values(["steerability", "score"], ascending=False)["name"].iloc[0]

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.folder is not None and (self.folder / name).is_file()

    def file(self, name: str) -> dict[str, Any]:
        """Another JSON file of the folder."""
        return _object(self._path(name))

    def parameters(self, part: str = ".") -> int:
        """Number of weights in the safetensors files of a sub-folder."""
        count = 0
        for file in self._path(part).glob("*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())
        return count

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise ValueError(f"a model that is in memory only has no {name}")
        return self.folder / name

    def measures(self) -> list[Measure]:
        """The pack's figures of all neurons, with the controls."""
        return list(_measures(self.pack)) if self.pack else []

    def nonsense(self, one: Measure) -> dict[str, float]:
        """Figures of controls in a measure, by their names; empty where nobody measured that."""
        figures = self.controls.get("figures", {})
        return {name: own[one.key] for name, own in figures.items() if is_measured(own.get(one.key))}

    def best_nonsense(self, one: Measure) -> tuple[str, float] | None:
        """The control that does best in a measure, with its figure; None if no control has it, or none is better."""
        values = self.nonsense(one)
        if not values or not one.better:
            return None
        name = max(values, key=lambda control: one.better * values[control])
        return name, values[name]

    def not_better_than_nonsense(self) -> list[Measure]:
        """The measures in which some control does as well as the model, or better."""
        best = [(one, self.best_nonsense(one)) for one in self.measures()]
        return [one for one, other in best if other and one.better * other[1] >= one.better * one.value]

    def beside_nonsense(self) -> list[dict[str, Any]]:
        """A row for each measure that some control has: the model's figure and theirs; None where one is missing."""
        names = list(self.controls.get("figures", {}))
        rows = []
        for one in self.measures():
            if values := self.nonsense(one):
                rows.append(
                    {"measure": one.name, "this model": one.value, **{name: values.get(name) for name in names}}
                )
        return rows


def model_index(measures: Sequence[Measure], task: str, dataset: str | None, split: str | None) -> list[EvalResult]:
    """Measures as results in the Hub's model-index; none where it is unknown on which data they were found.

    ``dataset`` is an id on the Hub, or a folder of images, of which only the name is written.
    """
    if dataset is None:
        return []
    name = dataset.rstrip("/").rsplit("/", 1)[-1]
    if not DATASET_TYPE.fullmatch(dataset):
        dataset = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
    return [
        EvalResult(
            task_type=task, dataset_type=dataset, dataset_name=name, dataset_split=split,
            metric_type=one.key, metric_name=one.name, metric_value=one.value,
        )
        for one in measures
    ]  # fmt: skip


def figures_of(scores: dict[str, Any]) -> dict[str, float]:
    """The figures of the summary of scores, by the names that measures have on the Hub."""
    return {one.key: one.value for one in _measures({"scores": scores, "judge": None})}


def _measures(pack: dict[str, Any]) -> Iterator[Measure]:
    scores = pack["scores"]

    def at(*path: str) -> Any:
        value: Any = scores
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    sure = at("interpretability", "sure")
    sure = "nearly all" if sure is None else f"{sure:.0%}"
    steering = scores.get("steerability", {})
    strength = f"{steering.get('alpha')}" + ("" if steering.get("unit") == "absolute" else f" {steering.get('unit')}")
    llava, unclip, judge = (_label(steering.get(model)) for model in ("llava", "unclip", "pictures"))
    by_words = f"cosine of the first word of {llava} and the neuron's name, by {steering.get('sentences')}"
    by_pictures = f"mean cosine of what {unclip} draws to the neuron's top images, judge {judge}"
    alone = f"the neuron alone set to {strength}"
    within = f"the neuron of a white image set to {strength}"
    by_clip = f"CLIP-Dissect: mean soft-WPMI of a neuron and its name, judge {_label(pack['judge'])}; "
    naming, control, rest = by_clip, "random top images", "It depends on the list of concepts"
    if pack.get("naming", {}).get("method") == "words":
        naming, control = "how well a neuron is told by its word, mean of precision and recall; ", "permuted words"
        rest = "It depends on the texts"
    table = (
        ("explained variance", "explained_variance", at("reconstruction", "explained_variance"), None,
         "of all tokens about their mean, by the reconstructions"),
        ("L0", "l0", at("reconstruction", "l0"), None, "active latents per token, mean", 0),
        ("dead neurons", "dead_share", at("shares", "dead"), None, "share that is active on none of the images", -1),
        ("interpretability", "clip_dissect", at("interpretability", "mean_score"),
         at("interpretability", "mean_score_of_chance"),
         f"{naming}chance: {control}. {rest}"),
        ("names above chance", "names_above_chance", at("interpretability", "share_above_chance"), None,
         f"share of neurons whose name scores above {sure} of the names that {control} get"),
        ("distinct names", "distinct_names", at("interpretability", "distinct_names"), None,
         "share of the named neurons that would be left with one neuron a name"),
        ("MonoSemanticity", "monosemanticity", at("monosemanticity", "mean"), at("monosemanticity", "population"),
         "mean cosine of the images on which a neuron is active, weighted by how much; judge "
         f"{_label(at('monosemanticity', 'judge'))}; chance: any two images"),
        ("spatial coherence", "spatial_coherence", at("spatial", "mean"), None,
         "mean Moran's I of the maps of patches: smooth maps have the most, any order of the patches about none"),
        ("redundancy", "redundancy", at("redundancy", "mean"), None,
         "mean of the largest cosine of a neuron's decoder row with another's", -1),
        ("steerability, words, unit vector", "steerability_text_unit", at("steerability", "text_unit", "mean"),
         at("steerability", "text_unit_random", "mean"), f"{by_words}; {alone}; chance: a random direction as long"),
        ("steerability, words, white image", "steerability_text_white", at("steerability", "text_white", "mean"),
         at("steerability", "text_white_random", "mean"), f"{by_words}; {within}; chance: likewise"),
        ("steerability, pictures, unit vector", "steerability_image_unit", at("steerability", "image_unit", "mean"),
         at("steerability", "image_unit_random", "mean"), f"{by_pictures}; {alone}; chance: likewise"),
        ("steerability, pictures, white image", "steerability_image_white", at("steerability", "image_white", "mean"),
         at("steerability", "image_white_random", "mean"), f"{by_pictures}; {within}; chance: likewise"),
        ("zero-shot accuracy", "accuracy", at("downstream", "accuracy_reconstructed"),
         at("downstream", "accuracy_original"), "of the encoder with reconstructions in place; beside it: untouched"),
        ("names that are right", "name_agreement", at("truth", "name_agreement"), None,
         "share of the names that agree with the label that the neuron predicts best"),
    )  # fmt: skip
    return (Measure(*row) for row in table if is_measured(row[2]))


def _label(model: Any) -> str:
    """A judge or generator as a card names it: by id and revision."""
    if not isinstance(model, dict) or model.get("id") is None:
        return "(not recorded)"
    return model["id"] + (f" at {model['revision']}" if model.get("revision") else "")


def is_measured(value: Any) -> bool:
    """Whether this is a number, and finite: what the Hub's model-index can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """A JSON content in which some strings are others."""
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} must hold a JSON object, found {kind}: write it again, or delete it")
    return content
