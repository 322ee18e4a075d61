"""Checks a recipe without its data: settings, ids, shapes, disk, memory; and says how long its steps will take.

    python training/dry_run.py --recipe training/recipes/llava-1.5-7b.yaml
    python training/dry_run.py --recipe training/recipes/llava-1.5-7b.yaml --measure
    python training/dry_run.py --recipe training/recipes/llava-1.5-7b.yaml --online

Nothing is downloaded. What a recipe's models and images are like, its section `dry_run` says; what is here, or in the
Hub's cache, is read instead. ``--measure`` times a few training steps at the recipe's own shapes on this machine and
keeps the figures; without figures times are "not measured". ``--online`` asks the Hub for every id. Exit code 1, and a
line for each problem, if something is wrong.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import costs
import datasets
import evaluate
import extract_activations
import machine
import open_clip
import pandas as pd
import score_neurons
import throughput
import torch
import train_cbsae
import typer
import yaml
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from machine import Step, spelled_time
from recipe import require_keys
from result_tables import markdown_table
from transformers import AutoConfig

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.data.concepts import PUBLISHED
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import CONFIG as OPEN_CLIP_CONFIG
from cbsae_hub.encoders.clip_like import named_by_open_clip
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import read_text
from cbsae_hub.models.checks import integer
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig, TrainConfig

NOT_TRAINING = (*train_cbsae.REQUIRED, *train_cbsae.MODEL)  # keys of section `cbsae` beside the training settings
KNOWN = ("encoder", "pixels", "images", "probe_images", "images_gb", "models_gb", "by_hand")
MODELS = {  # keys that name models; those of a step that made them are folders of this recipe
    "activations": {"encoder": "encoder_revision"},
    "scores": {"judge": None, "similarity": None},
    "steerability": {"llava": None, "sentences": None, "clip": None, "unclip": None, "pictures": None},
    "cbsae": {"teacher": None},
}
OF_SAE = ("activations", "output")  # keys of section `sae` beside the training settings
OTHERS = ("insertion", "sweep", "zero_shot_steering", "dry_run")  # which are not checked
NOT_MEASURED = "not measured"
MOST = 2**40


class DryRun:
    """The check of one recipe.

    Args:
        recipe: The file.
        measured: Figures of :mod:`throughput` for this device.

    Attributes:
        steps: What there is to do, in order.
        problems: What is wrong, a line each.

    Raises:
        ValueError: If it is no YAML of sections.
        OSError: If it cannot be read.
    """

    def __init__(self, recipe: Path, measured: dict[str, dict[str, Any]] | None = None):
        try:
            self.sections = yaml.safe_load(read_text(recipe))
        except yaml.YAMLError as error:
            raise ValueError(f"{recipe} is not YAML: {error}") from error
        if not isinstance(self.sections, dict) or not all(isinstance(one, dict) for one in self.sections.values()):
            raise ValueError(f"{recipe} holds no sections")
        self.recipe, self.measured = recipe, measured or {}
        self.steps: list[Step] = []
        self.problems: list[str] = []
        self.given = self.sections.get("dry_run", {})
        self.outputs = {
            name: str(one["output"]) for name, one in self.sections.items() if isinstance(one, dict) and "output" in one
        }
        self.encoder: VisionEncoder | None = None  # this and the next two have shapes, and no weights
        self.sae: SAE | None = None
        self.cb: CBSAE | None = None
        self.images: int | None = None
        self.scoring: dict[str, int] = {}  # sizes of the scores but for the number of concepts

    def run(self) -> None:
        """Checks every section that the recipe has."""
        with self._of("dry_run"):
            require_keys(self.given, (), KNOWN)
        checks = {
            "activations": self._activations,
            "sae": self._sae,
            "scores": self._scores,
            "steerability": self._steerability,
            "cbsae": self._cbsae,
            "evaluate": self._evaluate,
        }
        for name in self.sections:
            self._require(
                name in (*checks, *OTHERS),
                str(name),
                f"no section of any script; known are {', '.join((*checks, *OTHERS))}",
            )
        for name, check in checks.items():
            if name in self.sections:
                with self._of(name):
                    check(dict(self.sections[name]))
                self._ids(name)
        self._downloads()
        self.problems += machine.shortages(self.steps)

    @contextmanager
    def _of(self, section: str) -> Iterator[None]:
        """Notes what goes wrong with a section, so that the others are checked all the same."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.problems.append(f"{section}: {error}")

    def _require(self, condition: bool, section: str, problem: str) -> None:
        if not condition:
            self.problems.append(f"{section}: {problem}")

    def _step(self, name: str, script: str, options: str = "", launcher: str = "accelerate launch") -> Step:
        step = Step(name, f"{launcher} training/{script} --recipe {self.recipe}{options}")
        self.steps.append(step)
        return step

    # --------------------------------------------------------------------------------------------- sections

    def _activations(self, settings: dict[str, Any]) -> None:
        known = (*extract_activations.OPTIONAL, *extract_activations.EXTRACTION)
        step = self._step("activations", "extract_activations.py")
        require_keys(settings, extract_activations.REQUIRED, known)
        config, pixels = self._config(settings), self.given.get("pixels")
        self.encoder = encoder = costs.make_encoder(config, pixels, settings["layer"], str(settings["tokens"]))
        self.images = self._count(settings, "images")
        dtype = settings.get("dtype", "float16")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype must be float16 or float32, got {dtype!r}")
        kept = encoder.tokens_per_image
        step.disk["store"] = settings["output"], costs.store_bytes(self.images, kept, encoder.d_in, dtype)
        place = f"block {encoder.layer} of {encoder.num_layers}"
        step.remarks.append(
            f"{self.images:,} images, {kept} of {encoder.num_tokens} tokens, width {encoder.d_in}, {place}"
        )
        step.memory = costs.encoder_memory(encoder, settings.get("batch_size", 256))
        figure = self._figure(step, throughput.encoder_key(encoder))
        if figure:
            # Pictures are decoded by threads while the encoder works: the slower of the two counts.
            readers = min(settings.get("readers", 1), os.cpu_count() or 1)
            step.seconds = self.images * max(figure["seconds"], figure["reading_seconds"] / readers)

    def _sae(self, settings: dict[str, Any]) -> None:
        step = self._step("sae", "train_sae.py")
        require_keys(settings, OF_SAE, tuple(settings))
        config, output = self._training("sae", SAETrainConfig), settings["output"]
        self._fits("sae", "activations", settings["activations"], "activations")
        if self.encoder is None:
            raise ValueError("its width is not known: section `activations` has to be right first")
        self.sae = costs.make_sae(config, self.encoder.d_in)
        d_sae = self.sae.d_sae
        self._require(config.k <= d_sae, "sae", f"k {config.k} is more than the {d_sae} neurons")
        rows = self._rows()
        self._require(rows is None or rows >= config.batch_size, "sae", f"{rows} activations are fewer than one batch")
        step.disk["SAE and checkpoints"] = (
            str(output),
            costs.training_disk(self.sae, costs.sae_checkpoint_bytes(self.sae)),
        )
        step.memory = costs.sae_memory(self.sae, config)
        groups = "" if self.sae.group_sizes is None else f" in groups of {', '.join(map(str, self.sae.group_sizes))}"
        passes = f", {config.steps * config.batch_size / rows:.1f} passes" if rows else ""
        step.remarks.append(f"{d_sae} neurons{groups}; {config.steps} steps of {config.batch_size}{passes}")
        figure = self._figure(step, throughput.sae_key(self.sae, config))
        step.seconds = figure and figure["seconds"] * config.steps

    def _scores(self, settings: dict[str, Any]) -> None:
        step = self._step("scores", "score_neurons.py")
        require_keys(settings, (*score_neurons.REQUIRED, "output"), score_neurons.OPTIONAL)
        self._fits("scores", "model", settings["model"], "sae")
        counts = {name: self._concepts(source) for name, source in settings["concepts"].items()}
        images = self._probe_images()
        top_k = integer("top_k", settings.get("top_k", 100), 1, images)
        step.remarks.append(f"{images:,} images; {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        if self.sae is not None:
            width = self._embedding_width(settings["judge"])
            self.scoring = {"width": width, "images": images, "top_k": top_k}
            step.memory = costs.scoring_memory(self.sae, concepts=sum(counts.values()), **self.scoring)
            step.disk["checkpoint of the sums"] = (
                settings["output"],
                8 * self.sae.d_sae * width + 12 * top_k * self.sae.d_sae,
            )
        step.remarks.append("time of encoder and judges on these images: not measured")

    def _steerability(self, settings: dict[str, Any]) -> None:
        step = self._step("steerability", "score_neurons.py", " --steer")
        require_keys(settings, (), score_neurons.STEERING)
        self._require("scores" in self.sections, "steerability", "needs a section `scores`, to which it adds")
        neurons = settings.get("neurons")
        if self.sae is not None and isinstance(neurons, int):
            integer("neurons", neurons, 1, self.sae.d_sae)
        step.remarks.append(f"{neurons or 'all'} neurons")
        sizes = self.given.get("models_gb", {})
        weights = sum(sizes.get(settings.get(key), 0) for key in MODELS["steerability"])
        if not torch.cuda.is_available():  # where LLaVA, of two bytes a weight on the Hub, is loaded in float32
            weights += sizes.get(settings.get("llava"), 0)
        step.memory = int(1e9 * weights)

    def _cbsae(self, settings: dict[str, Any]) -> None:
        names = settings.get("names")
        if names and names != self.outputs.get("scores") and not Path(names).is_dir():
            concepts = settings.get("concepts")
            options = f" --set 'concepts={{{Path(str(concepts)).stem}: {concepts}}}' --output {names}"
            step = self._step("names", "score_neurons.py", options)
            step.remarks.append("scores again, by the bottleneck's concepts")
            if self.scoring:
                step.memory = costs.scoring_memory(self.sae, concepts=self._concepts(concepts), **self.scoring)
        step = self._step("cbsae", "train_cbsae.py")
        config = self._training("cbsae", CBSAETrainConfig)
        require_keys(settings, train_cbsae.REQUIRED, tuple(settings))
        for key, section in (("model", "sae"), ("activations", "activations")):
            self._fits("cbsae", key, settings[key], section)
        if settings["scores"] != settings["model"]:  # else the table of the SAE's pack
            self._fits("cbsae", "scores", settings["scores"], "scores")
        if self.sae is None or self.images is None:
            raise ValueError("its SAE is not known: section `sae` has to be right first")
        retained = self._retained(settings["prune"])
        by = settings["prune"].get("by", "both")
        steered = by == "both" or "steerability" in ([by] if isinstance(by, str) else by)
        self._require(
            not steered or "steerability" in self.sections, "cbsae", "pruning by steerability needs its section"
        )
        concepts, cb_k = self._concepts(settings["concepts"]), integer("cb_k", settings.get("cb_k", 5), 1, MOST)
        self._require(cb_k < concepts, "cbsae", f"cb_k {cb_k} is not less than the {concepts} concepts")
        self.cb = cb = costs.make_bottleneck(self.sae, retained, concepts, cb_k)
        embeddings = costs.store_bytes(self.images, 1, self._embedding_width(settings["teacher"]), "float16")
        checkpoint = costs.bottleneck_checkpoint_bytes(cb, config)
        step.disk["teacher's embeddings"] = settings["embeddings"], embeddings
        step.disk["CB-SAE and checkpoints"] = settings["output"], costs.training_disk(cb, checkpoint)
        step.memory, step.host = costs.bottleneck_memory(self.sae, cb, config), embeddings
        step.remarks.append(
            f"{retained} of {self.sae.d_sae} neurons, at most {concepts} concepts, {config.steps} steps"
        )
        figure = self._figure(step, throughput.bottleneck_key(cb, config))
        step.seconds = figure and figure["seconds"] * config.steps
        step.remarks.append("time without the teacher's look at the images")

    def _evaluate(self, settings: dict[str, Any]) -> None:
        step = self._step("evaluate", "evaluate.py", launcher="python")
        require_keys(settings, evaluate.REQUIRED, evaluate.OPTIONAL)
        for section in ("scores", "steerability", "cbsae"):
            self._require(section in self.sections, "evaluate", f"needs a section `{section}`")
        for name, judge in settings["judges"].items():
            self._id("evaluate", f"judges.{name}", judge)
        if self.cb is None or self.encoder is None:
            raise ValueError("its models are not known: section `cbsae` has to be right first")
        variants = evaluate.variants(settings, self.sections["cbsae"])
        disk, seconds = 0, []
        for name, given in variants.items():
            with self._of(f"evaluate: {name}"):
                config = CBSAETrainConfig.from_dict({k: v for k, v in given.items() if k not in NOT_TRAINING})
                cb = costs.make_bottleneck(self.sae, self._retained(given["prune"]), len(self.cb.concepts))
                disk += costs.model_bytes(cb)
                figure = self.measured.get(throughput.bottleneck_key(cb, config))
                seconds.append(figure and figure["seconds"] * config.steps)
        seen = costs.store_bytes(self._probe_images(), self.encoder.num_tokens, self.encoder.d_in, "float32")
        step.disk["what the encoder saw"] = f"{settings['output']}/probe", seen
        step.disk["bottlenecks"] = settings["output"], disk
        step.seconds = sum(seconds) if all(seconds) else None
        if self.scoring:
            lists = settings.get("concepts", self.sections["scores"]["concepts"])
            concepts = sum(self._concepts(source) for source in lists.values())
            generators = sum(one.memory for one in self.steps if one.name == "steerability")
            step.memory = generators + costs.scoring_memory(self.sae, concepts=concepts, **self.scoring)
        step.remarks.append(f"bottlenecks to train and score: {len(variants)}; time of training only")

    # ------------------------------------------------------------------------------------------ what is there

    def _training(self, section: str, config: type[TrainConfig]) -> Any:
        """The training settings of a section, which has others beside them."""
        others = OF_SAE if section == "sae" else NOT_TRAINING
        return config.from_dict({key: value for key, value in self.sections[section].items() if key not in others})

    def _config(self, settings: dict[str, Any]) -> Any:
        """The encoder's config in transformers: its own if it is here, else the recipe's."""
        source, given = str(settings["encoder"]), self.given.get("encoder")
        here = source if Path(source).is_dir() else self._cached(source, settings.get("encoder_revision"))
        if not isinstance(here, str):
            if not given:
                raise ValueError(f"{source} is not here, so `dry_run.encoder` has to say what it is like")
            return AutoConfig.for_model(**given)
        config = AutoConfig.from_pretrained(here)
        own = getattr(config, "vision_config", config).to_dict()
        for key, value in (given or {}).items():
            if own.get(key, value) != value:
                raise ValueError(f"`dry_run.encoder` says {key} {value!r}, the config of {source} {own[key]!r}")
        return config

    @staticmethod
    def _cached(repo_id: str, revision: str | None) -> Any:
        try:
            return try_to_load_from_cache(repo_id, "config.json", revision=revision)
        except HFValidationError:
            return None

    def _count(self, settings: dict[str, Any], key: str) -> int:
        """How many images a section reads."""
        source = str(settings["images"])
        if ":" in source:
            return len(extract_activations.open_images(settings)[0])
        if Path(source).is_dir():
            require_keys(settings, ["split"], settings)
            return len(load_images(source, settings["split"]))
        require_keys(settings, ["split"], settings)
        return integer(f"dry_run.{key}, the number of images of {source},", self.given.get(key), 1, MOST)

    def _probe_images(self) -> int:
        return self._count(self.sections["scores"], "probe_images")

    def _rows(self) -> int | None:
        """Rows of the activation store."""
        return self.images and self.encoder and self.images * self.encoder.tokens_per_image

    def _concepts(self, source: str) -> int:
        """How many concepts a list has; a published one before its duplicates are removed."""
        return PUBLISHED[source].count if source in PUBLISHED else len(ConceptSet.load(source))

    def _embedding_width(self, model: str) -> int:
        """Of an image-text model; 512, CLIP-B's, of one that is not here."""
        if own := named_by_open_clip(str(model)):
            return open_clip.get_model_config(own[0])["embed_dim"]
        config = Path(model) / OPEN_CLIP_CONFIG
        return json.loads(read_text(config))["model_cfg"]["embed_dim"] if config.is_file() else 512

    def _retained(self, prune: dict[str, Any]) -> int:
        """How many neurons pruning leaves, all of them at most where a threshold decides."""
        unknown = sorted(set(prune) - {"by", "count", "share", "threshold", "normalize", "combine", "weights"})
        asked = [key for key in ("count", "share", "threshold") if prune.get(key) is not None]
        if unknown or len(asked) != 1:
            raise ValueError(f"prune takes exactly one of count, share and threshold, got {prune}")
        d_sae = self.sae.d_sae
        if "share" in asked:
            return integer("the share of neurons to retain", round(prune["share"] * d_sae), 1, d_sae)
        return integer("prune.count", prune["count"], 1, d_sae - 1) if "count" in asked else d_sae

    # ------------------------------------------------------------------------------------------------- ids

    def _fits(self, section: str, key: str, value: Any, maker: str) -> None:
        """A folder that an earlier step writes must be the one that this step reads."""
        made = self.outputs.get(maker)
        if made is not None and Path(str(value)) != Path(made):
            self.problems.append(f"{section}: {key} is {value}, but section `{maker}` writes {made}")
        elif made is None and not Path(str(value)).is_dir():
            self.problems.append(f"{section}: {key} is {value}, which is not here and no section writes")

    def _ids(self, section: str) -> None:
        """Models and images of a section: folders that exist, models of open_clip, or ids as the Hub has them."""
        settings = self.sections[section]
        for key in (*MODELS.get(section, ()), *(["images"] if "images" in settings else [])):
            self._id(section, key, settings.get(key))

    def _id(self, section: str, key: str, value: Any) -> None:
        if value is not None and ":" not in str(value):
            with self._of(f"{section}: {key}"):
                if self._on_hub(str(value)):
                    self.steps[-1].remarks.append(f"{value} not checked")

    def _on_hub(self, value: str) -> bool:
        """Whether an id has to be looked for on the Hub.

        Raises:
            ValueError: If it is nothing that could exist.
        """
        if Path(value).is_dir() or value in self.outputs.values() or named_by_open_clip(value):
            return False
        local, owner = {Path(path).parts[0] for path in self.outputs.values()}, value.partition("/")[0]
        if value.count("/") != 1 or owner in local or Path(owner).is_dir():
            raise ValueError(f"there is no folder {value}, and it is no id of the Hub, owner/name")
        validate_repo_id(value)
        return True

    def ask_hub(self, api: HfApi) -> None:
        """Asks the Hub for every id, and for its revision where the recipe has one."""
        for section, keys in MODELS.items():
            settings = self.sections.get(section, {})
            for key, pin in keys.items():
                self._ask(api.model_info, section, settings, key, settings.get(pin or ""))
            self._ask(api.dataset_info, section, settings, "images", settings.get("images_revision"))
        for judge in self.sections.get("evaluate", {}).get("judges", {}).values():
            self._ask(api.model_info, "evaluate", {"judge": judge}, "judge", None)

    def _ask(self, info: Any, section: str, settings: dict[str, Any], key: str, revision: str | None) -> None:
        value = str(settings.get(key) or "")
        step = next((step for step in self.steps if step.name == section), None)
        try:
            if step is None or not value or ":" in value or not self._on_hub(value):
                return
            found = info(value, revision=revision)
        except ValueError:  # noted before
            return
        except (HfHubHTTPError, OSError) as error:  # no such id or revision, a login that is missing, no network
            self.problems.append(f"{section}: {key}: {value} on the Hub: {str(error).strip().splitlines()[-1]}")
            return
        files = [one.rfilename for one in found.siblings or []]
        if key not in ("images", "teacher", "judge", "clip") and not any(one.endswith(".safetensors") for one in files):
            self.problems.append(f"{section}: {key}: {value} has no safetensors weights at that revision")
        gated = "asks for a login and an agreement" if found.gated else f"is there, commit {found.sha[:8]}"
        step.remarks = [one for one in step.remarks if one != f"{value} not checked"] + [f"{value} {gated}"]

    # ------------------------------------------------------------------------------------------- the machine

    def measure(self, figures: Path) -> None:
        """Times what the recipe trains and reads, at its shapes, and keeps it in a file."""
        if self.encoder is not None:
            throughput.keep(figures, throughput.encoder_key(self.encoder), throughput.time_encoder(self.encoder))
        if self.sae is not None:
            config = self._training("sae", SAETrainConfig)
            key = throughput.sae_key(self.sae, config)
            throughput.keep(figures, key, throughput.time_sae(config, self.sae.d_in))
        if self.cb is not None:
            config = self._training("cbsae", CBSAETrainConfig)
            key = throughput.bottleneck_key(self.cb, config)
            throughput.keep(figures, key, throughput.time_bottleneck(self.cb, config))

    def _figure(self, step: Step, key: str) -> dict[str, Any] | None:
        figure = self.measured.get(key)
        if figure and figure.get("note"):
            step.remarks.append(figure["note"])
        return figure

    def _downloads(self) -> None:
        """A step for what is fetched from the Hub."""
        step = Step("downloads", "(by the steps that need them)")
        hub = Path(constants.HF_HUB_CACHE)
        for name, size in self.given.get("models_gb", {}).items():
            step.disk[name] = str(hub / f"models--{name.replace('/', '--')}"), int(1e9 * size)
        if size := int(1e9 * self.given.get("images_gb", 0)):
            name = self.sections["activations"]["images"]
            step.disk[name] = str(hub / f"datasets--{name.replace('/', '--')}"), size
            # All splits are downloaded, and prepared once more in a form that can be mapped into memory.
            arrow = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
            step.disk["the same as Arrow"] = str(arrow), size
        if by_hand := self.given.get("by_hand"):
            step.remarks.append(f"by hand: {by_hand}")
        if step.disk:
            self.steps.insert(0, step)

    def table(self) -> str:
        """The steps in Markdown."""
        rows = [
            {
                "step": step.name,
                "command": f"`{step.command}`" if "training/" in step.command else step.command,
                "disk": ", ".join(f"{what} {costs.spelled(size)}" for what, (_, size) in step.disk.items()),
                "memory": costs.spelled(step.memory),
                "time": NOT_MEASURED if step.seconds is None else spelled_time(step.seconds),
                "remarks": "; ".join(step.remarks),
            }
            for step in self.steps
        ]
        return markdown_table(pd.DataFrame(rows))

    def as_json(self) -> str:
        """Steps, problems and the device."""
        device, memory = machine.device_memory()
        steps = [asdict(step) for step in self.steps]
        return json.dumps({"device": device, "memory": memory, "steps": steps, "problems": self.problems}, indent=1)


def main(
    recipe: Annotated[Path, typer.Option(help="YAML file; all its sections are checked.")],
    measure: Annotated[bool, typer.Option("--measure", help="Time a few steps first, and keep the figures.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Ask the Hub whether ids and revisions exist.")] = False,
    figures: Annotated[Path, typer.Option(help="File of the figures.")] = Path("runs/throughput.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check a recipe without its data."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run = DryRun(recipe, throughput.read(figures))
        run.run()
        if measure:
            run.measure(figures)
            run = DryRun(recipe, throughput.read(figures))
            run.run()
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if online:
        run.ask_hub(HfApi())
    typer.echo(run.as_json() if as_json else run.table().rstrip())
    for problem in run.problems:
        logging.error("wrong: %s", problem)
    if run.problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
