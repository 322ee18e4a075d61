"""Suppresses what is spurious in an encoder, layer by layer: a recipe's section `suppression`."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.groups import GroupedImages, group_images, read_split
from cbsae_hub.encoders.site import ResidualSite
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import claim, read_json, replace_file, write_json, write_text
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.sections import SuppressionSection
from cbsae_hub.plots import plot_examples, plot_suppression
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.layer_saes import train_or_read
from cbsae_hub.studies.suppression import TAUS, LayerStudy, Task
from cbsae_hub.studies.suppression_tables import as_markdown, best_layers, pictures_of, summary
from cbsae_hub.trainers.config import SAETrainConfig

TRAINING = ("expansion", "k", "steps", "batch_size", "lr", "warmup_steps", "decay_start", "dead_after_tokens")
SAES = "saes"  # folder of those that are trained


def suppress_spurious(settings: SuppressionSection, *, accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Finds, chooses and tests suppressions at every layer; layers that an earlier call has finished are read.

    Writes suppression.json, suppression.md, sweep.parquet and the figures suppression.png and pictures.png.

    Args:
        settings: Section `suppression`.
        accelerator: The run's; default a new one.

    Returns:
        ``rows`` (per layer, method and rule), ``best`` (the layer that the validation split chooses) and ``markdown``.

    Raises:
        ValueError: If a split lacks a group, the attribute has one value, an SAE does not fit, or a setting cannot be.
        OSError: If something is missing, or the folder is of a run with other settings.
    """
    accelerator = accelerator or make_accelerator(alone=True)
    encoder = VisionEncoder.from_pretrained(settings.encoder, -1, "all", settings.encoder_revision, accelerator.device)
    encoder.require_embedding()
    task = open_task(settings)
    existing = existing_saes(settings, encoder)
    layers = numbers_of(encoder, settings.layers or existing or range(encoder.num_layers))
    recorded = {key: value for key, value in settings.to_dict(defaults=False).items() if key != "output"}
    recorded["weights"] = [encoder.revision, *(sae.revision for one in existing.values() for sae in one.values())]
    recorded["groups"] = [split.counts() for split in (task.train, task.val, task.test)]
    claim(settings.output, recorded)
    results = []
    for layer in layers:
        file = settings.output / f"layer-{layer}.json"
        if not file.is_file():
            saes = existing.get(layer) or layer_saes(settings, encoder, layer, accelerator)
            study = LayerStudy(
                task, at_layer(encoder, layer), saes, taus=settings.taus or TAUS, pool=settings.pool,
                drop=settings.drop, batch=settings.batch,
            )  # fmt: skip
            write_json(file, study.run())
        results.append(read_json(file))
    table = summary(results)
    best = best_layers(table)
    write(settings.output, results, table, best, recorded)
    pictures = settings.output / "pictures.png"
    if not pictures.is_file() and (place := place_of_pictures(results)) is not None:
        layer, seed, features = place
        saes = existing.get(layer) or layer_saes(settings, encoder, layer, accelerator)
        strips, titles = pictures_of(at_layer(encoder, layer), saes[seed], task.train, features, settings.batch)
        with replace_file(pictures) as partial:
            plot_examples(strips, titles).savefig(partial, format="png")
    return {"rows": table.to_dict("records"), "best": best.to_dict("records"), "markdown": as_markdown(table, best)}


def open_task(settings: SuppressionSection) -> Task:
    """Loads the labelled images of a recipe, and the embeddings of its classes."""
    target = (settings.target.column, settings.target.classes)

    def grouped(split: str) -> GroupedImages:
        table = (settings.tables, settings.file_column, settings.split_column)
        images = read_split(settings.images, split, *table, settings.images_revision, settings.encoder)
        attribute = (settings.attribute.column, settings.attribute.values)
        return group_images(images, attribute, target, f"split {split} of {settings.images}")

    prompts = settings.prompts or {name: (name,) for name in settings.target.classes}
    texts = [text for name in settings.target.classes for text in prompts[name]]
    head = ZeroShotHead.from_pretrained(settings.encoder, texts, settings.templates, settings.encoder_revision)
    parts = head.weights.split([len(prompts[name]) for name in settings.target.classes])
    weights = F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)
    classes = ZeroShotHead(list(settings.target.classes), weights, head.logit_scale)
    return Task(classes, grouped(settings.train), grouped(settings.val), grouped(settings.test))


def at_layer(encoder: VisionEncoder, layer: int, tokens: str = "all") -> VisionEncoder:
    """The same encoder, read at another layer."""
    return VisionEncoder(encoder.model, encoder.processor, layer, tokens, encoder.repo_id, encoder.revision)


def numbers_of(encoder: VisionEncoder, layers: Iterable[int]) -> list[int]:
    """Numbers of layers from 0, ascending, each once; raises a ValueError for one that the encoder lacks."""
    return sorted({ResidualSite.find(encoder.model, layer).layer for layer in layers})


def existing_saes(settings: SuppressionSection, encoder: VisionEncoder) -> dict[int, dict[int, SAE | CBSAE]]:
    """The SAEs that a recipe names, by layer and then by their place among those of the layer.

    Raises:
        ValueError: If one does not say of which layer it is, or is of a layer that the recipe leaves out.
    """
    by_layer: dict[int, dict[int, SAE | CBSAE]] = {}
    for source in settings.saes or ():
        sae = load(source)
        if sae.layer is None:
            raise ValueError(f"{source} does not say of which layer it is")
        of_layer = by_layer.setdefault(numbers_of(encoder, [sae.layer])[0], {})
        of_layer[len(of_layer)] = sae
    others = [layer for layer in numbers_of(encoder, settings.layers or ()) if layer not in by_layer]
    if by_layer and others:
        raise ValueError(f"there is no SAE of layer {others[0]} among saes; they are of {sorted(by_layer)}")
    return by_layer


def layer_saes(
    settings: SuppressionSection, encoder: VisionEncoder, layer: int, accelerator: Accelerator
) -> dict[int, SAE | CBSAE]:
    """The SAEs of a layer by their seed, trained first if they are not in the folder yet."""
    assert settings.sae_images is not None  # as the section requires
    images, source = open_images(settings.sae_images)
    folder = settings.output / SAES / f"layer-{layer}"
    saes: dict[int, SAE | CBSAE] = {}
    for seed in settings.seeds:
        output = folder / f"seed-{seed}"
        if not (output / "training.json").is_file():
            at = at_layer(encoder, layer, settings.tokens)
            store = extract_activations(at, images, folder / "activations", source=source, accelerator=accelerator)
            chosen = settings.chosen(*TRAINING)
            steps = chosen.get("steps", SAETrainConfig.steps)
            options = {**chosen, "seed": seed, "eval_every": steps, "checkpoint_every": steps}
            config = SAETrainConfig.from_dict(options)
            saes[seed] = train_or_read(config, store, output)
        else:
            saes[seed] = SAE.from_pretrained(output)
    shutil.rmtree(folder / "activations", ignore_errors=True)  # of all layers together they would fill a disk
    return saes


def place_of_pictures(results: list[Mapping[str, Any]]) -> tuple[int, int, list[int]] | None:
    """Layer, seed and features of the suppression that is best on the validation split; None if there is none."""
    rows = [{"layer": one["layer"], **row} for one in results for row in one["rows"] if row["method"] == "SAE features"]
    rows = [row for row in rows if row["features"]]
    best = max(rows, key=lambda row: (row["val"]["worst"], row["val"]["overall"]), default=None)
    return None if best is None else (best["layer"], best["seed"], best["features"])


def write(
    folder: Path, results: list[Mapping[str, Any]], table: pd.DataFrame, best: pd.DataFrame, settings: dict[str, Any]
) -> None:
    """Writes what was measured: JSON, Markdown, the sweep as Parquet and as a figure."""
    sweep = pd.DataFrame([{"layer": one["layer"], **row} for one in results for row in one["sweep"]])
    with replace_file(folder / "sweep.parquet") as partial:
        sweep.to_parquet(partial, index=False)
    baselines = {row["val"]["worst"] for one in results for row in one["rows"] if row["method"] == "none"}
    with replace_file(folder / "suppression.png") as partial:
        plot_suppression(sweep, min(baselines)).savefig(partial, format="png")
    write_text(folder / "suppression.md", as_markdown(table, best))
    records = {"summary": table.to_dict("records"), "best": best.to_dict("records"), "layers": results}
    write_json(folder / "suppression.json", {"settings": settings, **records})
