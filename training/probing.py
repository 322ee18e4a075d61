"""Reads linear probes of SAE latents on shifted images, and tells strange images by the SAE's reconstruction error.

    python training/probing.py --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.probing`: table 1 and figures 2, 8, 10 and 12 of Olson et al. (2025). Writes
probing.json, probing.md, a figure for each sweep, and a file for each part in ``parts/``. Run it again to go on where
it was interrupted.
"""

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from tqdm import tqdm

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import claim, read_json, replace_file, write_json, write_text
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.sections import ProbingSection
from cbsae_hub.plots import plot_lines
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.image_labels import label_file, only_label, read_labels
from cbsae_hub.studies.layer_saes import Layer, all_rows
from cbsae_hub.studies.probing import (
    LATENTS,
    PRE,
    RAW,
    ImageSet,
    accuracies,
    detectors,
    errors,
    fitted,
    over_seeds,
    table_of,
    transforms,
)

Rows = list[dict[str, Any]]
SPARSITY = {"relu": "sparsity_coefficient", "gated": "sparsity_coefficient", "topk": "k"}


class Place:
    """One layer and selection of tokens of an encoder: activations of all images there, with their classes."""

    def __init__(self, settings: ProbingSection, name: str, layer: int, tokens: str):
        self.settings, device = settings, make_accelerator(alone=True).device
        revision = settings.encoder_revisions.get(name)
        self.encoder = VisionEncoder.from_pretrained(settings.encoders[name], layer, tokens, revision, device)
        images, source = open_images(settings)
        self.layer = Layer(self.encoder, images, source, settings.saes)
        labels = read_labels(images, settings.label, label_file(settings.saes, source, settings.label))
        counts = Counter(own[0] for own in labels if len(own) == 1)
        self.classes = sorted(label for label, count in counts.items() if count >= settings.least_images)
        if len(self.classes) < 2:
            raise ValueError(
                f"a probe needs two labels on {settings.least_images} training images each that have no other; "
                f"the column {settings.label} has {len(self.classes)}: give more images, or another column"
            )
        targets = torch.from_numpy(only_label(labels, self.classes))
        labelled = targets >= 0
        self.train = ImageSet(all_rows(self.layer.store)[labelled], targets[labelled])
        self.sets = {one: self._set(one) for one in settings.sets}

    def _set(self, name: str) -> ImageSet:
        one = self.settings.set_of(name)
        images, source = open_images(one)
        rows = self.layer.rows(images, source)
        if one.kind == "far":
            return ImageSet(rows, torch.full((len(images),), -1), one.kind)
        column = one.label or self.settings.label
        labels = read_labels(images, column, label_file(self.settings.saes, source, column))
        targets = torch.from_numpy(only_label(labels, self.classes))
        if not (targets >= 0).any():
            raise ValueError(
                f"no image of the set {name} has just one label that the training images have ({self.classes[0]}, "
                f"{self.classes[1]}, ...): name its column, sets.{name}.label, or rename its classes as theirs"
            )
        return ImageSet(rows, targets, one.kind, one.mask)

    def sae(self, **changes: Any) -> SAE:
        """The SAE of these activations with the recipe's settings and some others."""
        return self.layer.sae({**self.settings.train, **changes})

    def probed(self, sae: SAE, seed: int, names: tuple[str, ...] | None = None) -> Iterator[dict[str, Any]]:
        """A row for each kind of features and each set."""
        for features, transform in transforms(sae, seed).items():
            if names is None or features in names:
                probe = fitted(self.train, transform, len(self.classes), seed)
                for name, share in accuracies(probe, transform, self.sets).items():
                    yield {"features": features, "set": name, "accuracy": share, "l2": probe.l2}

    def measured(self, sae: SAE, seed: int, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        """A row for each set: errors and sparsity of an SAE, and the accuracy of each kind of features."""
        probed = list(self.probed(sae, seed, names))
        for name, row in errors(sae, self.sets, self.settings.usual).items():
            yield {"set": name, **row, **{one["features"]: one["accuracy"] for one in probed if one["set"] == name}}


def probes(settings: ProbingSection, name: str) -> Rows:
    """Table 1 and the detectors, of an encoder's last layer, with each seed."""
    rows = []
    for seed in tqdm(settings.seeds, desc=f"probes of {name}", unit="seed"):

        def measure(seed: int = seed) -> Rows:
            place = Place(settings, name, -1, settings.tokens)
            sae = place.sae(seed=seed)
            common = {"encoder": name, "seed": seed, "layer": place.encoder.layer}
            raw = fitted(place.train, transforms(sae, seed)[RAW], len(place.classes), seed)
            areas = detectors(sae, raw, place.train, place.sets, settings.usual)
            return [common | row for row in place.probed(sae, seed)] + [
                common | {"way": way, "set": one, "auroc": value}
                for way, of_sets in areas.items()
                for one, value in of_sets.items()
            ]

        rows += part(settings, f"probes-{name}-{seed}", measure)
    return rows


def sweep(settings: ProbingSection, name: str) -> Rows:
    """Figures 2, 10 and 12: SAEs of every kind, size and sparsity on an encoder's last layer, with the first seed."""
    seed, rows = settings.seeds[0], []
    place = functools.cache(lambda: Place(settings, name, -1, settings.tokens))  # not needed if all parts are there
    cells = [
        (kind, sparsity, expansion)
        for kind, sparsities in settings.sparsities.items()
        for sparsity, expansion in itertools.product(sparsities, settings.expansions)
    ]
    for kind, sparsity, expansion in tqdm(cells, desc=f"sweep of {name}", unit="SAE"):
        size = {"activation": kind, "expansion": expansion, "group_fractions": None}
        value = int(sparsity) if kind == "topk" else sparsity
        cell = {"encoder": name, "activation": kind, "sparsity": value, "expansion": expansion}

        def measure(cell: dict = cell, changes: dict = size | {SPARSITY[kind]: value}) -> Rows:
            sae = place().sae(**changes, seed=seed)
            return [cell | row for row in place().measured(sae, seed, (LATENTS, PRE))]

        rows += part(settings, f"sweep-{name}-{kind}-{value}-x{expansion}", measure)
    return rows


def layers(settings: ProbingSection, name: str) -> Rows:
    """Figure 8: an SAE of every layer, of CLS and of patches, with the first seed."""
    rows, seed = [], settings.seeds[0]
    every = settings.layers or range(VisionEncoder.from_pretrained(settings.encoders[name]).num_layers)
    cells = list(itertools.product(every, settings.layer_tokens))
    for layer, tokens in tqdm(cells, desc=f"layers of {name}", unit="layer"):

        def measure(layer: int = layer, tokens: str = tokens) -> Rows:
            place = Place(settings, name, layer, tokens)
            where = {"encoder": name, "layer": place.encoder.layer, "tokens": tokens}
            return [where | row for row in place.measured(place.sae(seed=seed), seed, (RAW, LATENTS))]

        rows += part(settings, f"layers-{name}-{layer}-{tokens}", measure)
    return rows


def part(settings: ProbingSection, name: str, compute: Callable[[], Rows]) -> Rows:
    """The rows of one part of the study: those of an earlier run, if there are any."""
    file = settings.output / "parts" / f"{name}.json"
    if not file.is_file():
        write_json(file, compute())
    return read_json(file)


def as_markdown(results: dict[str, Rows]) -> str:
    """All tables as they stand in the documentation."""
    rows = [row for row in results["probes"] if "accuracy" in row]
    areas = [row for row in results["probes"] if "auroc" in row]
    parts = ["Accuracy of probes, per cent, mean over seeds with 95 % interval:"]
    parts.append(table_of(over_seeds(rows, ("encoder", "features", "set"), "accuracy"), ("encoder", "features"), "set"))
    if areas:
        parts.append("Telling strange images from usual ones, AUROC in per cent, likewise:")
        parts.append(table_of(over_seeds(areas, ("encoder", "way", "set"), "auroc"), ("encoder", "way"), "set"))
    for name, line in (
        ("sweep", ("encoder", "activation", "expansion", "sparsity")),
        ("layers", ("encoder", "tokens", "layer")),
    ):
        for title, column, scale, digits in (
            ("accuracy of latents, per cent", LATENTS, 100, 1),
            ("mean squared error", "mse", 1, 4),
            ("sum of latents (L1)", "l1", 1, 2),
            ("active latents (L0)", "l0", 1, 1),
        ):
            if results[name]:
                parts.append(f"{name.capitalize()}, {title}, one seed:")
                parts.append(table_of(over_seeds(results[name], (*line, "set"), column), line, "set", scale, digits))
    return "\n".join(f"{one}\n" if one.endswith(":") else one for one in parts)


def draw(settings: ProbingSection, results: dict[str, Rows]) -> None:
    """Writes the figures of what was swept: on the usual images, and on average over the shifted sets."""
    if results["sweep"]:
        frame = usual_and_shifted(settings, results["sweep"], ["encoder", "activation", "expansion", "sparsity"])
        kinds = frame["encoder"] + " " + frame["activation"] + " x" + frame["expansion"].astype(str)
        panels = {LATENTS: "accuracy, latents", PRE: "accuracy, pre-activations", "mse": "mean squared error"}
        lines = frame.assign(line=kinds + ", " + frame["images"]).sort_values("l0")
        save(settings, "sweep", plot_lines(lines, "l0", panels, "active latents (L0)", log=True))
    if results["layers"]:
        frame = usual_and_shifted(settings, results["layers"], ["encoder", "tokens", "layer"])
        panels = {
            "mse": "mean squared error",
            "l1": "L1",
            "l0": "L0",
            RAW: "accuracy, raw",
            LATENTS: "accuracy, latents",
        }
        lines = frame.assign(line=frame["encoder"] + " " + frame["tokens"] + ", " + frame["images"])
        save(settings, "layers", plot_lines(lines, "layer", panels, "layer"))


def usual_and_shifted(settings: ProbingSection, rows: Rows, by: list[str]) -> pd.DataFrame:
    """Means over the usual set, and over all others that are not far."""
    frame = pd.DataFrame(rows)
    frame = frame[[settings.set_of(name).kind != "far" for name in frame["set"]]]
    frame = frame.assign(images=frame["set"].where(frame["set"] == settings.usual, "shifted"))
    return frame.groupby([*by, "images"], sort=False, as_index=False).mean(numeric_only=True)


def save(settings: ProbingSection, name: str, figure: Any) -> None:
    """Writes a figure."""
    with replace_file(settings.output / f"{name}.png") as partial:
        figure.savefig(partial, format="png")


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `probing` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Read probes on shifted images; Markdown tables go to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = ProbingSection.read(recipe, overrides)
        (settings.output / "parts").mkdir(parents=True, exist_ok=True)
        decisive = {key: value for key, value in settings.to_dict(defaults=False).items() if key != "output"}
        claim(settings.output, decisive)
        results: dict[str, Rows] = {"probes": [], "sweep": [], "layers": []}
        for name in settings.encoders:
            results["probes"] += probes(settings, name)
            if settings.sparsities and settings.expansions:
                results["sweep"] += sweep(settings, name)
            results["layers"] += layers(settings, name)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    table = as_markdown(results)
    write_text(settings.output / "probing.md", table)
    write_json(settings.output / "probing.json", {"settings": settings.to_dict(defaults=False), **results})
    draw(settings, results)
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
