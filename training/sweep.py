"""Trains and scores a grid of SAEs: layers x kinds x expansions, beside the encoder's raw neurons. One table.

    python training/sweep.py --recipe training/recipes/emoji.yaml

The form is that of table 1 of Pach et al. (2025). Run it again to go on where it was interrupted: finished stores,
models and rows are kept.
"""

import logging
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from tqdm import tqdm

from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.data.images import image_batches, load_images
from cbsae_hub.encoders.explained import whole_image
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.hub.files import write_json, write_text
from cbsae_hub.metrics import MonosemanticityScore, Reconstruction, mean_over_tokens
from cbsae_hub.models import SAE
from cbsae_hub.pipeline.extract import open_images
from cbsae_hub.pipeline.sections import SweepSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring.report import describe
from cbsae_hub.scoring.scorer import ImageEmbedder, image_model
from cbsae_hub.studies.layer_saes import train_or_read
from cbsae_hub.studies.tables import markdown_table
from cbsae_hub.trainers.config import REFERENCE_GROUPS, SAETrainConfig

KINDS = {"BatchTopK": None, "Matryoshka": REFERENCE_GROUPS}
FIGURES = {  # in the table, with their digits
    "explained variance": ("explained_variance", 3), "L0": ("l0", 1), "MS mean": ("mean", 3), "best": ("best", 3),
    "worst": ("worst", 3),
}  # fmt: skip
TRAINING = ("k", "steps", "batch_size", "lr", "warmup_steps", "decay_start", "dead_after_tokens", "seed")


class Scored:
    """The sums of the scores of an SAE; or of the encoder's own neurons, as if they were latents: signed, and dense."""

    def __init__(self, sae: SAE | None, d_in: int, width: int):
        self.sae, self.reconstruction = sae, Reconstruction(d_in)
        self.monosemanticity = MonosemanticityScore(sae.d_sae if sae else d_in, width)

    def update(self, v: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Adds a batch of activations ``[images, tokens, d_in]``."""
        if self.sae is None:
            self.monosemanticity.update(v.mean(1), embeddings)
            return
        values, owners = self.sae.encode_sparse(v)
        decoded = self.sae.decode_sparse(values, owners).flatten(0, 1)
        self.reconstruction.update(v.flatten(0, 1), decoded, (values > 0).sum(-1).flatten())
        self.monosemanticity.update(mean_over_tokens(values, owners, self.sae.d_sae), embeddings)

    def row(self) -> dict[str, Any]:
        """A row of the table."""
        return {**(self.reconstruction.compute() if self.sae else {}), **describe(self.monosemanticity.compute())}


@torch.no_grad()
def score(encoder: VisionEncoder, saes: dict[tuple, SAE], settings: SweepSection) -> list[dict[str, Any]]:
    """Rows of one layer: all its SAEs from one pass over the probe images, which are seen whole."""
    encoder = VisionEncoder(encoder.model, encoder.processor, encoder.layer, whole_image(encoder.tokens))
    images = load_images(settings.probe_images, settings.probe_split)
    embed = ImageEmbedder(image_model(settings.similarity, encoder.device))
    scored: dict[tuple, Scored] = {}
    for _, pictures in tqdm(image_batches(images, 64), total=-(-len(images) // 64), desc="score", unit="batch"):
        v, embeddings = encoder(pictures), embed(pictures)
        if not scored:
            every = {("none", None): None, **saes}
            scored = {key: Scored(sae, encoder.d_in, embeddings.shape[1]) for key, sae in every.items()}
        for one in scored.values():
            one.update(v, embeddings)
    population = scored["none", None].monosemanticity.population()
    return [
        {"layer": encoder.layer, "kind": kind, "expansion": expansion, "population": population, **one.row()}
        for (kind, expansion), one in scored.items()
    ]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table as it stands in the documentation."""
    frame = pd.DataFrame(rows)
    saes = [kind if kind == "none" else f"{kind} x{e:g}" for kind, e in zip(frame["kind"], frame["expansion"])]
    table = pd.DataFrame({"layer": frame["layer"], "SAE": saes})
    for title, (column, digits) in FIGURES.items():
        table[title] = ["" if pd.isna(value) else f"{value:.{digits}f}" for value in frame[column]]
    table["undefined"] = [f"{undefined} of {n}" for undefined, n in zip(frame["undefined"], frame["n"])]
    return markdown_table(table)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `sweep` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Train and score a grid of SAEs; writes sweep.json and sweep.md."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    rows: list[dict[str, Any]] = []
    try:
        accelerator = make_accelerator(alone=True)
        settings = SweepSection.read(recipe, overrides)
        common = settings.chosen(*TRAINING)
        for layer in settings.layers:
            place = {"layer": layer, "tokens": settings.tokens, "device": accelerator.device}
            encoder = VisionEncoder.from_pretrained(settings.encoder, **place)
            images, source = open_images(settings)
            options = {"source": source, "accelerator": accelerator, **settings.chosen("images_per_shard")}
            folder = settings.output / f"layer-{encoder.layer}"
            store = extract_activations(encoder, images, folder / "activations", **options)
            saes = {}
            for kind, expansion in product(KINDS, settings.expansions):
                one = {**common, "expansion": expansion, "group_fractions": KINDS[kind]}
                output = folder / f"{kind}-x{expansion}".lower()
                saes[kind, expansion] = train_or_read(SAETrainConfig.from_dict(one), store, output)
            rows += score(encoder, saes, settings)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    write_text(settings.output / "sweep.md", as_markdown(rows))
    write_json(settings.output / "sweep.json", {"settings": settings.to_dict(defaults=False), "rows": rows})
    typer.echo(as_markdown(rows))


if __name__ == "__main__":
    typer.run(main)
