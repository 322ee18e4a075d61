"""Checks a recipe without its data: settings, ids, shapes, disk and memory.

Nothing is downloaded. The recipe's section `dry_run` describes its models and images; what is here, or in the Hub's
cache, is read instead.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import open_clip
import pandas as pd
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoImageProcessor

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.data.activations import MANIFEST, ActivationStore, layer_folder
from cbsae_hub.data.concepts import PUBLISHED
from cbsae_hub.data.images import load_images
from cbsae_hub.data.texts import load_texts
from cbsae_hub.encoders.clip_like import CONFIG as OPEN_CLIP_CONFIG
from cbsae_hub.encoders.clip_like import named_by_open_clip
from cbsae_hub.encoders.passages import random_count
from cbsae_hub.hub.files import read_text
from cbsae_hub.models.checks import integer
from cbsae_hub.pipeline import costs, sections
from cbsae_hub.pipeline.costs import Step
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.recipe import read_sections
from cbsae_hub.pipeline.sections import SECTIONS, DryRunSection
from cbsae_hub.pipeline.start import look_at_start
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.trainers.config import SAETrainConfig, TrainConfig

MODELS = {  # settings that are ids of models
    "activations": ("encoder",),
    "scores": ("judge", "similarity"),
    "steerability": ("llava", "sentences", "clip", "unclip", "pictures"),
    "cbsae": ("teacher",),
    "ontology": ("encoder", "probe_images"),
    "overlap": ("llava", "probe_images"),
}
UNEVEN = ("text", "language")  # towers whose items have different numbers of tokens


class DryRun:
    """The check of one recipe, whose errors are those of :func:`read_sections`.

    Attributes:
        steps: What there is to do, in order.
        problems: What is wrong, a line each.
        doubts: What is not wrong, but too small for its settings, a line each.
    """

    def __init__(self, recipe: Path):
        self.raw = read_sections(recipe)
        if not all(isinstance(one, dict) for one in self.raw.values()):
            raise ValueError(f"{recipe} holds no sections")
        self.steps: list[Step] = []
        self.problems: list[str] = []
        self.doubts: list[str] = []
        self.facts = DryRunSection()
        self.sections: dict[str, Any] = {}  # those that are right
        self.outputs = {name: str(one["output"]) for name, one in self.raw.items() if "output" in one}
        self.stores: dict[Path, costs.AnyEncoder] = {}  # the encoder of each store; it and the next ones lack weights
        self.encoder: costs.AnyEncoder | None = None  # that of the SAE
        self.sae: SAE | None = None
        self.cb: CBSAE | None = None
        self.images: int | None = None
        self.scoring: dict[str, int] = {}  # sizes of the scores but for the number of concepts

    def run(self) -> None:
        """Checks every section that the recipe has."""
        for name in self.raw:
            self._require(name in SECTIONS, str(name), f"no section of any script; known are {', '.join(SECTIONS)}")
        with self._noting("dry_run"):
            raw = self.raw.get("dry_run", {})
            self.facts = DryRunSection.from_dict({key: raw[key] for key in raw if hasattr(self.facts, str(key))})
            DryRunSection.from_dict(raw)  # names what is unknown
        for name, kind in SECTIONS.items():  # in the order of the steps
            if name in self.raw and name != "dry_run":
                with self._noting(name):
                    section = self.sections[name] = kind.from_dict(self.raw[name])
                    check = getattr(self, f"_{name}", None)  # the methods below
                    if check is not None:
                        check(section)
                self._ids(name)
        self._downloads()
        self.problems += costs.shortages(self.steps)

    @contextmanager
    def _noting(self, section: str) -> Iterator[None]:
        """Notes what goes wrong with a section, so that the others are checked all the same."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.problems.append(f"{section}: {error}")

    def _require(self, condition: bool, section: str, problem: str) -> None:
        if not condition:
            self.problems.append(f"{section}: {problem}")

    def _doubt(self, section: str, config: TrainConfig, d_in: int) -> None:
        """Notes what a training is too small for, as the trainer does."""
        if self.encoder is not None and self.images:
            heldout = round(config.heldout_fraction * self.images)
            counts = self.images - heldout, heldout
            tokens, own = (round(count * self.encoder.tokens_per_image) for count in counts)
            self.doubts += [f"{section}: {doubt}" for doubt in config.doubts(tokens, own, d_in)]

    def _step(self, name: str) -> Step:
        self.steps.append(Step(name))
        return self.steps[-1]

    # --------------------------------------------------------------------------------------------- sections

    def _activations(self, settings: sections.ActivationsSection) -> None:
        step = self._step("activations")
        first, *others = settings.encoders()
        encoder: Any = self._make_encoder(first)
        encoders = [encoder, *(encoder.at(one.layer, one.chosen_tokens) for one in others)]  # those of a vision encoder
        self.encoder, self.images = encoder, self._count(settings, "images")
        sizes = [
            costs.store_bytes(self.images, one.tokens_per_image, one.d_in, settings.dtype or "float16")
            for one in encoders
        ]
        if settings.is_of_several:
            self.stores = {layer_folder(settings.output, one.layer, one.tokens): one for one in encoders}
        else:
            self.stores = {settings.output: encoder}
        step.disk["stores" if settings.is_of_several else "store"] = settings.output, sum(sizes)
        step.memory = costs.encoder_memory(encoder, settings.batch_size or 256)
        blocks = dict.fromkeys(str(one.layer) for one in encoders)
        stored = dict.fromkeys(f"{one.tokens_per_image:g}" for one in encoders)
        step.shapes = (
            f"{self.images:,} {'texts' if first.reads_texts else 'images'}, {' and '.join(stored)} of "
            f"{'at most ' * (first.tower in UNEVEN)}{encoder.num_tokens} tokens, width {encoder.d_in}, "
            f"block {', '.join(blocks)} of {encoder.num_layers}"
        )

    def _sae(self, settings: sections.SAESection) -> None:
        step, config = self._step("sae"), settings.config()
        self._fits("sae", "activations", settings.activations, "activations")
        self.encoder = self.stores.get(settings.activations, self.encoder)
        if self.encoder is None:
            raise ValueError("its width is not known: section `activations` has to be right first")
        self.sae = sae = costs.make_sae(config, self.encoder.d_in)
        self._require(config.k <= sae.d_sae, "sae", f"k {config.k} is more than the {sae.d_sae} neurons")
        rows = self.images and round(self.images * self.encoder.tokens_per_image)
        self._require(not rows or rows >= config.batch_size, "sae", f"{rows} activations are fewer than one batch")
        self._doubt("sae", config, sae.d_in)
        step.disk["SAE and checkpoints"] = settings.output, costs.training_disk(sae, costs.sae_checkpoint_bytes(sae))
        step.memory = costs.sae_memory(sae, config)
        groups = "" if sae.group_sizes is None else f" in groups of {', '.join(map(str, sae.group_sizes))}"
        passes = f", {config.steps * config.batch_size / rows:.1f} passes" if rows else ""
        step.shapes = f"{sae.d_sae} neurons{groups}; {config.steps} steps of {config.batch_size}{passes}"
        if (settings.activations / MANIFEST).is_file():
            start = look_at_start(ActivationStore.open(settings.activations), config)
            step.shapes += f"; {start}"
            self.doubts += [f"sae: {doubt}" for doubt in [start.doubt(config)] if doubt]

    def _scores(self, settings: sections.ScoresSection) -> None:
        step = self._step("scores")
        self._fits("scores", "model", settings.model, "sae")
        counts = {name: self._concepts(source) for name, source in settings.concepts.items()}
        images = self._probe_images()
        top_k = integer("top_k", settings.top_k or 100, 1, images)
        step.shapes = f"{images:,} images; {', '.join(f'{name} {count:,}' for name, count in counts.items())}"
        if settings.output is None:
            raise ValueError("the recipe lacks output")
        if self.sae is not None:
            width = self._embedding_width(settings.judge)
            self.scoring = {"width": width, "images": images, "top_k": top_k}
            step.memory = costs.scoring_memory(self.sae, concepts=sum(counts.values()), **self.scoring)
            sums = 8 * self.sae.d_sae * width + 12 * top_k * self.sae.d_sae
            step.disk["checkpoint of the sums"] = settings.output, sums

    def _steerability(self, settings: sections.SteerabilitySection) -> None:
        step = self._step("steerability")
        self._require("scores" in self.raw, "steerability", "needs a section `scores`, to which it adds")
        if self.sae is not None and isinstance(settings.neurons, int):
            integer("neurons", settings.neurons, 1, self.sae.d_sae)
        step.shapes = f"{settings.neurons or 'all'} neurons"
        models = [getattr(settings, key) for key in MODELS["steerability"]]
        if not torch.cuda.is_available():  # where LLaVA, of two bytes a weight on the Hub, is loaded in float32
            models.append(settings.llava)
        step.memory = int(1e9 * sum(self.facts.models_gb.get(model, 0) for model in models))

    def _words(self, settings: sections.WordsSection) -> None:
        self._fits("words", "model", settings.model, "sae")

    def _cbsae(self, settings: sections.CBSAESection) -> None:
        concepts = self._concepts(settings.concepts)
        if settings.names not in (None, self.outputs.get("scores")) and self.scoring and self.sae is not None:
            step = self._step("names")
            step.shapes = f"scores again, by the bottleneck's {concepts} concepts"
            step.memory = costs.scoring_memory(self.sae, concepts=concepts, **self.scoring)
        step, config = self._step("cbsae"), settings.config()
        self._fits("cbsae", "model", settings.model, "sae")
        self._fits("cbsae", "activations", settings.activations, "activations")
        if settings.scores != settings.model:  # else the table of the SAE's pack
            self._fits("cbsae", "scores", settings.scores, "scores")
        if self.sae is None or self.images is None:
            raise ValueError("its SAE is not known: section `sae` has to be right first")
        retained, by, cb_k = self._retained(settings.prune, self.sae), settings.prune.by, settings.cb_k
        steered = "steerability" in ((by,) if isinstance(by, str) else by)
        self._require(not steered or "steerability" in self.raw, "cbsae", "pruning by steerability needs its section")
        self._require(cb_k < concepts, "cbsae", f"cb_k {cb_k} is not less than the {concepts} concepts")
        self.cb = cb = costs.make_bottleneck(self.sae, retained, concepts, cb_k)
        self._doubt("cbsae", config, self.sae.d_in)
        embeddings = costs.store_bytes(self.images, 1, self._embedding_width(settings.teacher), "float16")
        checkpoint = costs.bottleneck_checkpoint_bytes(cb, config)
        step.disk["teacher's embeddings"] = settings.embeddings, embeddings
        step.disk["CB-SAE and checkpoints"] = settings.output, costs.training_disk(cb, checkpoint)
        step.memory, step.host = costs.bottleneck_memory(self.sae, cb, config), embeddings
        step.shapes = f"{retained} of {self.sae.d_sae} neurons, at most {concepts} concepts, {config.steps} steps"

    def _evaluate(self, settings: sections.EvaluationSection) -> None:
        step = self._step("evaluate")
        for section in ("scores", "cbsae"):
            self._require(section in self.raw, "evaluate", f"needs a section `{section}`")
        for name, judge in settings.judges.items():
            self._id("evaluate", f"judges.{name}", judge)
        if self.sae is None or self.cb is None or self.encoder is None or "scores" not in self.sections:
            raise ValueError("its models are not known: section `cbsae` has to be right first")
        variants = settings.variants_of(self.sections["cbsae"])
        models = 0
        for name, variant in variants.items():
            with self._noting(f"evaluate: {name}"):
                retained = self._retained(variant.prune, self.sae)
                models += costs.model_bytes(costs.make_bottleneck(self.sae, retained, len(self.cb.concepts)))
        probe = costs.store_bytes(self._probe_images(), self.encoder.num_tokens, self.encoder.d_in, "float32")
        step.disk["what the encoder saw"] = settings.output / "probe", probe
        step.disk["bottlenecks"] = settings.output, models
        if self.scoring:
            lists = settings.concepts or self.sections["scores"].concepts
            concepts = sum(self._concepts(source) for source in lists.values())
            generators = sum(one.memory for one in self.steps if one.name == "steerability")
            step.memory = generators + costs.scoring_memory(self.sae, concepts=concepts, **self.scoring)
        step.shapes = f"bottlenecks to train and score: {len(variants)}"

    def _ontology(self, settings: sections.OntologySection) -> None:
        if settings.tree != "wordnet":
            self._require(Path(settings.tree).is_file(), "ontology", f"there is no tree {settings.tree}")
        self._many_layers(settings, {"encoder": settings.encoder}, (settings.tokens,))

    def _probing(self, settings: sections.ProbingSection) -> None:
        for name, encoder in settings.encoders.items():
            self._id("probing", f"encoders.{name}", encoder)
        for name in settings.sets:
            self._id("probing", f"sets.{name}", settings.set_of(name).images)
        self._many_layers(settings, settings.encoders, dict.fromkeys((settings.tokens, *settings.layer_tokens)))

    def _overlap(self, settings: sections.OverlapSection) -> None:
        self._many_layers(settings, {"llava": settings.llava}, (settings.tokens,), "language")

    def _many_layers(
        self, settings: Any, encoders: Mapping[str, str], selections: Iterable[str], tower: str = "vision"
    ) -> None:
        """Checks a study of many layers; its sizes are known if it is of the encoder of section `activations`."""
        step, activations, encoder = self._step(settings.section), self.sections.get("activations"), self.encoder
        if encoder is None or activations is None:
            return
        explained = activations.encoders()[0]
        if explained.tower != tower or explained.model not in encoders.values():
            return
        layers = settings.layers or range(encoder.num_layers)
        for layer in layers:
            integer("layers", layer, -encoder.num_layers, encoder.num_layers - 1)
        config = SAETrainConfig.from_dict(settings.train)
        step.memory = costs.sae_memory(costs.make_sae(config, encoder.d_in), config)
        step.shapes = f"{len(layers)} layers of {encoder.num_layers}"
        if settings.is_function:  # to make its images only to count them takes seconds, and they are few
            return
        images, rows = self._count(settings, "images"), {"cls": 1, "mean": 1}
        size = sum(
            costs.store_bytes(
                images, random_count(tokens) or rows.get(tokens, encoder.num_tokens), encoder.d_in, "float16"
            )
            for tokens in selections
        )
        places = len(layers) + (tower == "language")  # and the projector
        step.disk["activations of all layers"] = settings.saes, places * size
        step.shapes = f"{images:,} images to train on, {step.shapes}"

    # ------------------------------------------------------------------------------------------------ shapes

    def _make_encoder(self, settings: sections.EncoderSettings) -> costs.AnyEncoder:
        """The encoder that section `activations` describes, without weights."""
        config, read = self._config(settings), (settings.layer, settings.chosen_tokens)
        if settings.tower != "vision":
            return costs.make_tower(config, settings.tower, *read, self.facts.tokens_per_text)
        own = self._file(settings, "preprocessor_config.json")
        processor = own and AutoImageProcessor.from_pretrained(own.parent, backend="pil")
        return costs.make_encoder(config, self.facts.pixels, *read, processor=processor)

    def _config(self, settings: sections.EncoderSettings) -> Any:
        """The encoder's config in transformers: its own if it is here, else the recipe's."""
        source, described = settings.model, self.facts.encoder
        inside = self._file(settings, "text_encoder/config.json") if settings.reads_texts else None
        file = inside or self._file(settings, "config.json")
        if file is None:
            if not described:
                raise ValueError(f"{source} is not here, so `dry_run.encoder` has to say what it is like")
            return AutoConfig.for_model(**described)
        config = AutoConfig.from_pretrained(file.parent)
        own = getattr(config, "vision_config", config).to_dict() if settings.tower == "vision" else config.to_dict()
        for key, value in (described or {}).items():
            if isinstance(value, dict):  # of a model in the model
                own[key] = {inner: one for inner, one in own.get(key, value).items() if inner in value}
            if own.get(key, value) != value:
                raise ValueError(f"`dry_run.encoder` says {key} {value!r}, the config of {source} {own[key]!r}")
        return config

    def _file(self, settings: sections.EncoderSettings, name: str) -> Path | None:
        """A file of the encoder, if it is in its folder or in the Hub's cache."""
        path = Path(settings.model) / name
        if path.is_file():
            return path
        with suppress(HFValidationError):
            cached = try_to_load_from_cache(settings.model, name, revision=settings.revision)
            return Path(cached) if isinstance(cached, str) else None
        return None

    def _count(self, source: sections.ImageSource, key: str) -> int:
        """Number of images that a section reads."""
        if source.is_function:
            return len(open_images(source)[0])
        if source.is_lines:
            return len(load_texts(source.images))
        assert source.split is not None  # as its class requires
        if Path(source.images).is_dir():
            return len(load_images(source.images, source.split))
        count = getattr(self.facts, key)
        if count is None:
            raise ValueError(f"dry_run.{key}, the number of images of {source.images}, is missing")
        return count

    def _probe_images(self) -> int:
        scores = self.sections["scores"]
        return self._count(sections.ImageSource(images=scores.images, split=scores.split), "probe_images")

    def _concepts(self, source: str) -> int:
        """Number of concepts in a list; a published one before its duplicates are removed."""
        return PUBLISHED[source].count if source in PUBLISHED else len(ConceptSet.load(source))

    def _embedding_width(self, model: str) -> int:
        """Width of an image-text model's embeddings; 512, CLIP-B's, of one that is not here."""
        if own := named_by_open_clip(model):
            return open_clip.get_model_config(own[0])["embed_dim"]
        config = Path(model) / OPEN_CLIP_CONFIG
        return json.loads(read_text(config))["model_cfg"]["embed_dim"] if config.is_file() else 512

    def _retained(self, prune: sections.PruneSettings, sae: SAE) -> int:
        """Number of neurons that pruning leaves, all of them at most where a threshold decides."""
        d_sae = sae.d_sae
        if prune.share is not None:
            return integer("the share of neurons to retain", round(prune.share * d_sae), 1, d_sae)
        return d_sae if prune.count is None else integer("prune.count", prune.count, 1, d_sae - 1)

    # ------------------------------------------------------------------------------------------------- ids

    def _fits(self, section: str, key: str, folder: str | Path, maker: str) -> None:
        """Compares the folder that a step reads with the one that an earlier step writes."""
        written = {Path(self.outputs[maker])} if maker in self.outputs else set()
        if maker == "activations" and self.stores:
            written = set(self.stores)
        if written and Path(folder) not in written:
            names = ", ".join(sorted(map(str, written)))
            self.problems.append(f"{section}: {key} is {folder}, but section `{maker}` writes {names}")
        elif not written and not Path(folder).is_dir():
            self.problems.append(f"{section}: {key} is {folder}, which is not here and no section writes")

    def _ids(self, section: str) -> None:
        """Checks models and images of a section, whether its other settings are right or not."""
        for key in (*MODELS.get(section, ()), "images"):
            value = self.raw[section].get(key)
            self._id(section, key, value.get("model") if isinstance(value, dict) else value)

    def _id(self, section: str, key: str, value: Any) -> None:
        """Checks an id: an existing folder or one that a step writes, a model of open_clip, or of the Hub's form."""
        name = str(value)
        if value is None or ":" in name or Path(name).exists() or name in self.outputs.values():
            return
        local, owner = {Path(path).parts[0] for path in self.outputs.values()}, name.partition("/")[0]
        if not named_by_open_clip(name):
            with self._noting(f"{section}: {key}"):
                if name.count("/") != 1 or owner in local or Path(owner).is_dir():
                    raise ValueError(f"there is no folder {name}, and it is no id of the Hub, owner/name")
                validate_repo_id(name)

    # -------------------------------------------------------------------------------------------- the answer

    def _downloads(self) -> None:
        """A step for what is fetched from the Hub."""
        step = Step("downloads", self.facts.by_hand and f"by hand: {self.facts.by_hand}" or "")
        hub = Path(constants.HF_HUB_CACHE)
        for name, size in self.facts.models_gb.items():
            step.disk[name] = hub / f"models--{name.replace('/', '--')}", int(1e9 * size)
        if size := int(1e9 * self.facts.images_gb):
            name = self.raw["activations"]["images"]
            step.disk[name] = hub / f"datasets--{name.replace('/', '--')}", size
            # All splits are downloaded, and prepared once more in a form that can be mapped into memory.
            arrow = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
            step.disk["the same as Arrow"] = arrow, size
        if step.disk:
            self.steps.insert(0, step)

    def records(self) -> list[dict[str, Any]]:
        """The steps as data: sizes in bytes."""
        return [
            {
                "step": step.name,
                "shapes": step.shapes,
                "disk": {purpose: size for purpose, (_, size) in step.disk.items()},
                "memory": step.memory,
                "host": step.host,
            }
            for step in self.steps
        ]

    def table(self) -> str:
        """The steps in Markdown."""
        disks = [
            ", ".join(f"{purpose} {costs.spelled(size)}" for purpose, (_, size) in step.disk.items())
            for step in self.steps
        ]
        rows = [(step.name, step.shapes, disk, costs.spelled(step.memory)) for step, disk in zip(self.steps, disks)]
        return markdown_table(pd.DataFrame(rows, columns=["step", "shapes", "disk", "memory"]))
