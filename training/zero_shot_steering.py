"""Measures how strongly the neurons of an SAE steer CLIP's zero-shot answers, beside raw neurons and random directions.

    python training/zero_shot_steering.py --recipe training/recipes/emoji.yaml

After "Steering CLIP's vision transformer with sparse autoencoders", section 6. All three are set to the same strengths at
the same block on the same images. That is fair because decoder rows, dimensions and random directions are unit vectors: a
strength displaces activations equally far along each. Every figure is told twice: of images of the recipe's split, and of
a white one, which says less about what an answer loses. Writes zero_shot_steering.json (a strength of null is the
asymptote), zero_shot_steering.md, zero_shot_steering.png and neurons.parquet.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from accelerate import Accelerator
from PIL import Image

from cbsae_hub.data.concepts import ConceptSet
from cbsae_hub.data.images import load_images
from cbsae_hub.models.files import replace_file
from cbsae_hub.plotting import plot_steerability
from cbsae_hub.scoring.report import without_nan
from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.clip_zero_shot import STRENGTHS
from cbsae_hub.steering.latents import RawNeurons, neuron_count
from cbsae_hub.steering.zero_shot_scores import ZeroShotScores, summarise, uniform_s_f
from recipe import read_recipe, require_keys
from tables import markdown_table

REQUIRED = ("model", "clip", "vocabulary", "images", "split", "images_count", "output")
DEFAULTS = {"strengths": list(STRENGTHS), "neurons": "all", "gamma": 0.1, "beta": 0.5, "seed": 0}


def draw(count: int, of: int, what: str, seed: int) -> list[int]:
    """Numbers of some of the images or neurons, ascending."""
    if not 1 <= count <= of:
        raise ValueError(f"{what} must be 1 to {of}, got {count}")
    return sorted(np.random.default_rng(seed).choice(of, count, replace=False).tolist())


def image_sets(settings: dict[str, Any]) -> dict[str, list[Image.Image]]:
    """What is steered: images of the split, and a white one of their size."""
    source = load_images(settings["images"], settings["split"], beside=settings["model"])
    numbers = draw(settings["images_count"], len(source), "images_count", settings["seed"])
    pictures = source.select(numbers)["image"][:]
    return {
        f"{len(pictures)} images ({settings['split']})": pictures,
        "a white image": [Image.new("RGB", pictures[0].size, "white")],
    }


def steerers(settings: dict[str, Any], device: Any) -> dict[str, ClipZeroShotSteerer]:
    """One CLIP with the SAE, its raw neurons, and random directions at the same block."""
    words = ConceptSet.load(settings["vocabulary"])
    sae = ClipZeroShotSteerer.from_pretrained(
        settings["clip"], settings["model"], words, device=device, beside=settings["model"]
    )
    shared = sae.model, sae.image_processor, sae.tokenizer
    width, layer = sae.tower.sae.d_in, sae.tower.layer
    return {
        "SAE": sae,
        "raw neurons": ClipZeroShotSteerer(*shared, RawNeurons(width, layer), words),
        "random directions": ClipZeroShotSteerer(*shared, RawNeurons(width, layer, settings["seed"]), words),
    }


def measure(
    of: dict[str, ClipZeroShotSteerer], images: list[Image.Image], settings: dict[str, Any]
) -> dict[str, list[ZeroShotScores]]:
    """Sweeps on one set of images."""
    chosen = None
    if settings["neurons"] != "all":
        chosen = draw(settings["neurons"], neuron_count(of["SAE"].tower.sae), "neurons", settings["seed"])
    strengths = settings["strengths"]
    return {name: one.sweep(images, chosen if name == "SAE" else None, strengths) for name, one in of.items()}


def as_markdown(tables: dict[str, pd.DataFrame], gamma: float, beta: float) -> str:
    """The table as it stands in the documentation; cells are of the SAE, raw neurons and random directions."""
    columns = {
        f"S_f > {gamma:g}, %": lambda part: 100 * part["share_above_gamma"],
        "SAE to raw": lambda part: part["ratio_gamma"].iloc[1:2],
        f"S_f > {beta:g}, %": lambda part: 100 * part["share_above_beta"],
        "SAE to raw ": lambda part: part["ratio_beta"].iloc[1:2],
        "mean S_f": lambda part: part["layer_s"],
        "words covered, %": lambda part: 100 * part["concept_coverage"],
        "mean D_f": lambda part: part["distance"],
        "mean TV": lambda part: part["total_variation"],
    }
    rows = []
    for images, table in tables.items():
        for strength, part in table.groupby("strength"):
            cells = {
                title: " / ".join(f"{value:.1f}" if "%" in title or "raw" in title else f"{value:.3f}" for value in of(part))
                for title, of in columns.items()
            }
            rows.append({"images": images, "strength": f"{strength:g}".replace("inf", "asymptote"), **cells})
    return markdown_table(pd.DataFrame(rows))
