"""Trains SAEs at every layer of a CLIP, measures them and published ones, and steers CLIP by their neurons.

    python -m training.layers --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.layers` and :mod:`cbsae_hub.studies.layer_steering`. Run it again to go on where it
was interrupted: stores, SAEs and what was measured with the same settings are kept, so that layers, kinds and seeds can
be added later. Writes layers.json, layers.md, neurons.parquet (a row per neuron that was steered) and the figures.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.extraction import extract_layers
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.formats.load import load, require_encoder
from cbsae_hub.hub.files import plain, read_json, replace_file, write_json, write_text
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.sections import LayersSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring.truth import Truth
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip import STRENGTHS
from cbsae_hub.steering.latents import RawNeurons
from cbsae_hub.studies import layer_figures as figures
from cbsae_hub.studies.clip_sweep import draw
from cbsae_hub.studies.layer_saes import train_or_read
from cbsae_hub.studies.layer_steering import Steered, controls, steer_set
from cbsae_hub.studies.layer_tables import as_markdown, over_seeds
from cbsae_hub.studies.layers import LayerProbe
from cbsae_hub.trainers.loop import Interrupted

STEERING = ("words", "strength", "neurons", "curves", "gamma", "beta", "seed")  # settings on which the effects depend


@dataclass(frozen=True)
class Subject:
    """An SAE of the study; ``seed`` is None of a published one."""

    name: str
    kind: str
    seed: int | None
    sae: SAE | CBSAE

    @property
    def row(self) -> dict[str, Any]:
        """The columns that tell it apart."""
        return {"kind": self.kind, "layer": self.sae.layer, "tokens": self.sae.tokens, "seed": self.seed}


class LayerStudy:
    """The study of one recipe; a part is computed when it is first needed, and what is on disk is read."""

    def __init__(self, settings: LayersSection, device: torch.device):
        self.settings, self.device, self.output = settings, device, settings.output
        self.configs = settings.configs()
        place: dict[str, Any] = {"revision": settings.encoder_revision, "device": device}
        first = VisionEncoder.from_pretrained(settings.encoder, 0, "all", **place)
        layers = range(first.num_layers) if settings.layers is None else settings.layers
        self.encoders = {one.layer: one for one in (first.at(layer, "all") for layer in layers)}
        self.places = [one.at(one.layer, tokens) for one in self.encoders.values() for tokens in settings.tokens]
        for one in self.places:
            one.on_tokens(lambda v: v)  # refuses tokens that cannot be put back, before anything is trained
        words = ConceptSet.load(settings.vocabulary)
        self.words, self.words_hash = list(words)[: settings.words], words.sha256
        self._probes: dict[int, LayerProbe] = {}

    # ------------------------------------------------------------------------------------------------ the SAEs

    def train(self) -> Iterator[Subject]:
        """An SAE of every kind and seed for every layer and tokens, one after the other; finished ones are read."""
        if not self.configs:
            return
        images, source = open_images(self.settings)
        options = {"source": source, **self.settings.chosen("images_per_shard")}
        stores = extract_layers(self.places, images, self.output / "activations", **options)
        for store, (kind, config), seed in product(stores, self.configs.items(), self.settings.seeds):
            name = f"{store.folder.name}-{slug(kind)}-seed-{seed}"
            sae = train_or_read(config.replace(seed=seed), store, self.output / "saes" / name)
            yield Subject(name, kind, seed, sae)

    def published(self) -> Iterator[Subject]:
        """The SAEs that are there already, one after the other: a large one takes some memory.

        Raises:
            ValueError: If one is of another layer than those of the settings, or does not say of which.
        """
        for kind, sources in self.settings.published.items():
            for source in sources:
                sae = load(source, device=self.device)
                require_encoder(sae)
                if sae.layer not in self.encoders:
                    layers = ", ".join(map(str, self.encoders))
                    raise ValueError(
                        f"{source} is of layer {sae.layer}, and the layers here are {layers}: leave it out"
                    )
                yield Subject(f"published-{slug(source)}", kind, None, sae)

    # -------------------------------------------------------------------------------------------- the measures

    @cached_property
    def chosen(self) -> tuple[list[str], torch.Tensor, Any]:
        """The classes, the class of each image that was drawn (-1: does not count), and these images."""
        settings = self.settings
        images = load_images(settings.probe_images, settings.probe_split)
        classes, targets = Truth.read(images, {"class": settings.labels}).classes()
        count = len(images) if settings.probe_count is None else settings.probe_count
        ids = draw(count, len(images), "probe_count", settings.seed)
        return classes, torch.from_numpy(targets)[ids], images.select(ids)

    @cached_property
    def stores(self) -> dict[int, ActivationStore]:
        """Activations of all tokens of the probe images, of every layer from one pass over them."""
        settings = self.settings
        source: dict[str, Any] = {"id": settings.probe_images, "split": settings.probe_split}
        source |= {"count": settings.probe_count, "seed": settings.seed}
        options = {"source": source, "dtype": "float32", **settings.chosen("images_per_shard")}
        stores = extract_layers(list(self.encoders.values()), self.chosen[2], self.output / "probe", **options)
        return dict(zip(self.encoders, stores))

    @cached_property
    def head(self) -> ZeroShotHead:
        """CLIP's own text tower, which classifies the images."""
        settings = self.settings
        return ZeroShotHead.from_pretrained(
            settings.encoder, self.chosen[0], settings.zero_shot, settings.encoder_revision
        )

    def probe(self, layer: int) -> LayerProbe:
        """The probe of a layer, for all its SAEs."""
        if layer not in self._probes:
            classes, targets, _ = self.chosen
            self._probes[layer] = LayerProbe(self.encoders[layer], self.stores[layer], targets, self.head)
        return self._probes[layer]

    def measure(self, subject: Subject) -> dict[str, Any]:
        """A row of the table."""
        store = self.stores[subject.sae.layer].manifest
        settings: dict[str, Any] = {
            "sae": subject.sae.revision,
            "labels": self.settings.labels,
            "zero_shot": self.settings.zero_shot,
        }
        settings["images"] = {name: store[name] for name in ("encoder", "images", "fingerprint")}
        file = self.output / "measured" / f"{subject.name}.json"
        compute = lambda: self.probe(subject.sae.layer).measure(subject.sae.to(self.device))  # noqa: E731
        return {**subject.row, **remembered(file, settings, compute)}

    # -------------------------------------------------------------------------------------------- the steering

    @cached_property
    def clip(self) -> ClipZeroShotSteerer:
        """The whole CLIP, with the vocabulary."""
        first = next(iter(self.encoders.values()))
        nothing = RawNeurons(first.d_in, first.layer)
        where: dict[str, Any] = {"device": self.device, "revision": self.settings.encoder_revision}
        return ClipZeroShotSteerer.from_pretrained(self.settings.encoder, nothing, self.words, **where)

    def steer(self, name: str, sae: SAE | CBSAE | RawNeurons, revision: str | None, whole: bool) -> Steered:
        """Effects of the neurons of an SAE or a control; all strengths if ``whole``, else the asymptote alone."""
        settings = self.settings
        options = settings.chosen("neurons", "gamma", "beta", "seed")
        options |= {"strength": settings.strength if whole else None, "curve": settings.curves or STRENGTHS}
        images = self.chosen[2].select(range(min(settings.steered_images, len(self.chosen[2]))))["image"][:]
        identity = {name: getattr(settings, name) for name in STEERING}
        identity |= {"sae": revision, "neurons of it": sae.d_latent, "vocabulary": self.words_hash}
        identity |= {"whole": whole, "images": len(images), "encoder": self.encoders[sae.layer].provenance()}
        identity["fingerprint"] = self.stores[sae.layer].manifest["fingerprint"]
        file = self.output / "steered" / f"{name}.json"

        def compute() -> dict[str, Any]:
            result = steer_set(self.clip.with_sae(sae), images, **options)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(file.with_suffix(".parquet")) as partial:
                result.neurons.to_parquet(partial, index=False)
            return {"summaries": result.summaries, "curve": result.curve}

        content = remembered(file, identity, compute)
        return Steered(neurons=pd.read_parquet(file.with_suffix(".parquet")), **content)

    # ------------------------------------------------------------------------------------------------- the run

    def run(self) -> "Results":
        """Trains, measures and steers everything."""
        results, sizes = Results(self.settings), dict[int, int]()
        for layer in self.encoders:
            self.probe(layer)  # what is wrong with the images is known before hours of training, as with published SAEs
        published = sum(map(len, self.settings.published.values()))
        total = published + len(self.places) * len(self.configs) * len(self.settings.seeds)
        for subject in tqdm(chain(self.published(), self.train()), total=total, desc="layers", unit="SAE"):
            results.measured.append(self.measure(subject))
            if subject.sae.tokens != "cls":  # a latent of CLS alone means nothing on the patches
                layer, whole = subject.sae.layer, subject.seed in (None, self.settings.seeds[0])
                result = self.steer(subject.name, subject.sae, subject.sae.revision, whole)
                results.add(result, subject.row)
                sizes[layer] = max(sizes.get(layer, 0), subject.sae.d_latent)
        for layer, count in tqdm(sorted(sizes.items()), desc="controls", unit="layer"):
            for kind, sae in controls(self.encoders[layer].d_in, layer, count, self.settings.seed).items():
                result = self.steer(f"layer-{layer}-{slug(kind)}", sae, None, True)
                results.add(result, {"kind": kind, "layer": layer, "tokens": "all", "seed": None})
        for rows in (results.measured, results.summaries, results.curves):
            rows.sort(key=lambda row: row["layer"])
        return results


class Results:
    """All that was measured, as it is written."""

    def __init__(self, settings: LayersSection):
        self.settings = settings
        self.measured: list[dict[str, Any]] = []
        self.summaries: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.neurons: list[pd.DataFrame] = []

    def add(self, result: Steered, row: dict[str, Any]) -> None:
        """Adds the effects of one set of neurons; ``row`` tells it apart."""
        several = len({tokens for tokens in self.settings.tokens if tokens != "cls"}) > 1
        own = row | ({"kind": f"{row['kind']}, {row['tokens']}"} if several else {})
        self.summaries += [own | one for one in result.summaries]
        self.curves += [own | result.curve] if result.curve else []
        self.neurons.append(result.neurons.assign(**own))

    def steered(self) -> pd.DataFrame:
        """A row per set of neurons and strength; the asymptote's is infinite."""
        frame = pd.DataFrame(self.summaries)
        return frame.assign(strength=frame["strength"].fillna(np.inf).astype(float)) if len(frame) else frame

    def as_markdown(self) -> str:
        """The tables."""
        return as_markdown(pd.DataFrame(self.measured), self.steered(), self.settings.gamma)

    def figures(self) -> Iterator[tuple[str, Callable[[], Figure]]]:
        """Names of the figures, and what draws them."""
        measured, settings = pd.DataFrame(self.measured), self.settings
        l0 = over_seeds(measured, ("layer", "tokens", "kind"), ("l0_patch", "l0_cls"))
        yield "l0_by_layer", lambda: figures.plot_l0_by_layer(l0)
        spatial = measured[measured["tokens"] != "cls"]
        if spatial.empty:
            return
        # Of one kind and seed; seeds differ little.
        kind = next(one for one in (*settings.kinds, *settings.published) if one in set(spatial["kind"]))
        rows = list(spatial[spatial["kind"] == kind].drop_duplicates("layer").itertuples())
        boxes = {row.layer: (row.l0_by_token, row.prefix) for row in rows}
        maps = {row.layer: np.asarray(row.l0_by_token)[row.prefix :, -1].reshape(row.grid) for row in rows}
        yield "l0_maps", lambda: figures.plot_l0_maps(maps)
        yield "l0_boxes", lambda: figures.plot_l0_boxes(boxes)
        steered, neurons = self.steered(), pd.concat(self.neurons, ignore_index=True)
        at = neurons[neurons["strength"] == settings.strength]
        loss = self.summaries[0]["loss"]  # of the images, the same for all
        yield "s_f", lambda: figures.plot_s_f(at, settings.gamma, loss)
        yield "curves", lambda: figures.plot_curves(self.curves, loss)
        far = steered[np.isinf(steered["strength"])]
        reach = over_seeds(far, ("layer", "kind", "neurons"), ("concept_coverage",))
        yield "reach", lambda: figures.plot_reach(reach, settings.beta)

    def save(self) -> None:
        """Writes everything."""
        folder = self.settings.output
        write_text(folder / "layers.md", self.as_markdown())
        content = {"measured": self.measured, "steered": self.summaries, "curves": self.curves}
        write_json(folder / "layers.json", {"settings": self.settings.to_dict(defaults=False), **content})
        if self.neurons:
            with replace_file(folder / "neurons.parquet") as partial:
                pd.concat(self.neurons, ignore_index=True).to_parquet(partial, index=False)
        for name, plot in self.figures():
            with replace_file(folder / f"{name}.png") as partial:
                plot().savefig(partial, format="png")


def slug(name: str) -> str:
    """A name as a part of the name of a file."""
    return re.sub(r"\W+", "-", name.strip().lower()).strip("-")


def remembered(file: Path, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of these settings from its file; else it is computed, and written there."""
    if file.is_file() and (content := read_json(file))["settings"] == plain(settings):
        return content["result"]
    result = plain(compute())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"settings": settings, "result": result})
    return result


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `layers` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Train, measure and steer SAEs at every layer; the Markdown tables go to standard output.

    `--set kinds={}` trains nothing and measures the published SAEs alone.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = LayersSection.read(recipe, overrides)
        results = LayerStudy(settings, make_accelerator(alone=True).device).run()
        results.save()
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    except Interrupted as error:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(results.as_markdown(), nl=False)


if __name__ == "__main__":
    typer.run(main)
