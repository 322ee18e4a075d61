"""Pieces of the page that several tabs show: what is in them. How they look is in templates/."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image

from cbsae_hub.encoders.relevance import at_resolution
from cbsae_hub.neurons.chance import MARK, MEANING, by_chance
from cbsae_hub.neurons.pack import Context, Example, Pack
from cbsae_hub.studio.view.images import as_webp, data_uri
from cbsae_hub.studio.view.templates import template

# Five colours of viridis, dark to light: order is readable without telling colours apart.
VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float)
HEAT_ALPHA = 0.35, 0.45  # of the weakest strength, and what is added up to the strongest
STRIP_TITLES = {
    "top": "Strongest images",
    "p75": "Upper quarter of the images on which it fires",
    "p50": "Middle",
    "p25": "Lower quarter",
    "random": "Drawn at random from all images on which it fires",
}
STRIP = 9  # images of a strip
CARD_STRIPS = ("top", "p50", "random")
STATUS_NOTES = {
    "dead": "This neuron never fired on the probe images: it has no name.",
    "rare": "This neuron fires on fewer than 1 in 10,000 patches: what is said of it rests on few images.",
    "dense": "This neuron fires on more than 10 % of all patches: it rarely stands for one concept.",
}
VERDICTS = {"strong": "●", "weak": "◐", "not in this model": "○"}
CONCEPT_NOTE = "This neuron grades every patch: it counts where it is among the largest of the concepts."
PIECES, _NEURON = template("pieces"), template("neuron")


def colour(heat: float) -> str:
    """Returns the CSS colour of a strength 0..1: viridis, transparent at 0."""
    place = min(max(heat, 0.0), 1.0) * (len(VIRIDIS) - 1)
    low = min(int(place), len(VIRIDIS) - 2)
    r, g, b = VIRIDIS[low] + (place - low) * (VIRIDIS[low + 1] - VIRIDIS[low])
    alpha = 0.0 if heat <= 0 else HEAT_ALPHA[0] + HEAT_ALPHA[1] * min(heat, 1.0)
    return f"rgba({r:.0f},{g:.0f},{b:.0f},{alpha:.2f})"


def heat_layer(heat: np.ndarray, width: int, height: int) -> str:
    """Returns the address of a picture to lay over another: a map's colours, without steps, see :func:`colour`.

    Args:
        heat: ``[rows, columns]`` in 0..1.
        width: Pixels of the picture below.
        height: Likewise.
    """
    fine = at_resolution(torch.from_numpy(heat).float()[None], height, width)[0].numpy().clip(0, 1)
    channels = [np.interp(fine, np.linspace(0, 1, len(VIRIDIS)), values) for values in VIRIDIS.T]
    alpha = 255 * np.where(fine > 0, HEAT_ALPHA[0] + HEAT_ALPHA[1] * fine, 0)
    pixels = np.stack([*channels, alpha], -1).round().astype(np.uint8)
    return data_uri(as_webp(Image.fromarray(pixels, "RGBA"), quality=80))


def neuron_title(row: Any) -> str:
    """Returns ``pizza (3.41) - #12``, never a bare number; a concept neuron has its own concept first.

    A name that is no better than chance is marked, see :mod:`cbsae_hub.neurons.chance`; the page's templates explain
    the mark by the filter ``explained``.
    """
    chance = f", {MARK}" if by_chance(row) else ""
    if row.kind == "cb" and row.designated != row.name:
        return f"{row.designated} (found to be {row.name or 'nothing'}, {row.score:.2f}{chance}) - #{row.neuron}"
    mark = (", concept neuron" if row.kind == "cb" else "") + chance
    return f"{row.name} ({row.score:.2f}{mark}) - #{row.neuron}" if row.name else f"no name - #{row.neuron}"


def patch_heat(values: np.ndarray | None, fit: str = "fill") -> dict[str, Any] | None:
    """Returns a patch map, 0..1 ``[rows, columns]``, as the templates' figures have it over a picture; None for None.

    ``fit`` is how the picture fills the map's frame.
    """
    if values is None:
        return None
    rows, columns = values.shape
    cells = [(c, r, colour(float(values[r, c]))) for r, c in np.argwhere(values > 0.02)]
    return {"rows": rows, "columns": columns, "fit": fit, "layer": None, "cells": cells}


def _figure(pack: Pack, example: Example, relevance: np.ndarray | None = None) -> dict[str, Any]:
    """Returns one example image with its activation, and its patch map or, if there is one, its relevancy map."""
    heat, values = None, example.patch_map if relevance is None else relevance
    if values is not None:
        rows, columns = values.shape
        # Pictures of a pack have the shape of its maps; those of older packs are whole.
        cropped = not pack.cropped and pack.info["encoder"].get("preprocessing", {}).get("do_center_crop")
        if relevance is None:
            heat = patch_heat(values, "cover" if cropped else "fill")
        else:
            longer = max(example.image.size) / max(values.shape)
            layer = heat_layer(values, round(columns * longer), round(rows * longer))
            heat = {"rows": rows, "columns": columns, "fit": "cover" if cropped else "fill", "layer": layer}
    return {
        "source": data_uri(pack.image_bytes(example.image_id)),
        "alt": f"{example.alt}; mean activation {example.activation:.2f}",
        "activation": f"{example.activation:.2f}",
        "heat": heat,
    }


def _context(context: Context) -> dict[str, Any]:
    """Returns a text in pieces, each with the colour of the neuron's activation there, or None."""
    pieces: list[tuple[str, str | None]] = []
    place, largest = 0, max([*context.strengths, 1e-9])
    for start, stop, strength in zip(context.starts, context.stops, context.strengths):
        pieces.append((context.passage[place : max(place, start)], None))
        pieces.append((context.passage[max(place, start) : stop], colour(strength / largest)))
        place = max(place, stop)
    pieces.append((context.passage[place:], None))
    return {"pieces": [piece for piece in pieces if piece[0]], "activation": f"{context.activation:.2f}"}


def example_figures(pack: Pack, neuron: int, limit: int) -> list[dict[str, Any]]:
    """Returns a neuron's strongest images, as the templates' figures have them."""
    return [_figure(pack, one) for one in pack.examples(neuron, "top", limit=limit)]


def strips(pack: Pack, neuron: int, names: Sequence[str] = tuple(STRIP_TITLES)) -> Markup:
    """Returns the example strips of a neuron; of one that reads texts, the texts in which it fires."""
    if pack.of_texts:
        return _NEURON.contexts([_context(one) for one in pack.contexts(neuron)])
    examples = {STRIP_TITLES[name]: pack.examples(neuron, name, limit=STRIP) for name in names}
    return _NEURON.strips([(title, [_figure(pack, one) for one in row]) for title, row in examples.items() if row])


def relevancy_strip(pack: Pack, examples: Sequence[Example], maps: np.ndarray) -> Markup:
    """Returns a neuron's strongest images with its relevancy maps, ``[images, rows, columns]``."""
    figures = [_figure(pack, example, one) for example, one in zip(examples, maps, strict=True)]
    return _NEURON.strips([(f"{STRIP_TITLES['top']}, and what it owes its activation to", figures)] if figures else [])


def result(content: Markup, settings: Mapping[str, str], button: str) -> Markup:
    """Returns a result, which static/address.js marks as soon as the page's settings are others.

    Args:
        content: The result itself.
        settings: Parts of the address that it depends on, as :func:`cbsae_hub.studio.links.as_text` spells them.
        button: Id of the button that makes it anew.
    """
    return PIECES.result(content, json.dumps(settings), button)


def neuron_head(pack: Pack, row: Any) -> Markup:
    """Returns a neuron's title, its buttons, warnings, and its figures."""
    others = ", ".join(f"{name} ({score:.2f})" for name, score in list(zip(row.names, row.scores))[1:])
    note = CONCEPT_NOTE if row.kind == "cb" else STATUS_NOTES.get(row.status)
    notes = [note] if note else []
    if by_chance(row):
        notes.append(MEANING)
    return _NEURON.head(row.neuron, neuron_title(row), notes, others, _figures(pack, row))


def about_marks(titles: Iterable[str]) -> str | None:
    """Returns what the mark in one of some titles means, for lists whose entries have no room for it; else None."""
    return MEANING if any(MARK in title for title in titles) else None


def neuron_card(pack: Pack, row: Any) -> Markup:
    """Returns a neuron in short: its head and its images."""
    return _NEURON.card(neuron_head(pack, row), strips(pack, row.neuron, CARD_STRIPS))


def _figures(pack: Pack, row: Any) -> list[tuple[str, str, str]]:
    """Returns a neuron's scores: name, value, explanation."""
    wholes, parts = ("texts", "tokens") if pack.of_texts else ("images", "patches")
    pairs = [
        ("Fires on", f"{row.density:.1%} of {wholes}", f"and on {row.token_density:.2%} of all {parts}"),
        ("Strongest", f"{row.max:.1f}", f"largest activation of one of the {parts} of the probe {wholes}"),
        ("p99", "-" if math.isnan(row.p99) else f"{row.p99:.1f}", "99 % of its activations are below this"),
        ("Group", str(row.group), "Matryoshka group: 0 is the coarsest"),
    ]
    if not math.isnan(row.interpretability):
        how = (
            "share of its activation on the word and of the word that it fires on" if pack.of_texts else "CLIP-Dissect"
        )
        why = f"how well its name fits, between the worst, 0, and the best, 1, of this model's neurons ({how})"
        pairs.append(("Interpretability", f"{row.interpretability:.2f}", why))
    if not math.isnan(row.monosemanticity):
        chance = pack.info["scores"]["monosemanticity"]["population"]
        why = f"how alike the images are on which it fires; any two images: {chance:.2f}"
        pairs.append(("MonoSemanticity", f"{row.monosemanticity:.2f}", why))
    if not math.isnan(getattr(row, "steerability", math.nan)):  # packs without steerability lack the columns
        why = "how near the word is to its name that LLaVA says when it is set on a white picture: 1 is the name itself"
        pairs.append(("Steerability", f"{row.steerability:.2f} (“{row.said_white}”)", why))
    if row.truth:
        verdict = "the name agrees" if row.truth_agrees else "the name differs" if row.name else "no name"
        why = "the label that its activation predicts best on images whose content is known, and the average precision"
        pairs.append(("Ground truth", f"{row.truth_family} {row.truth}, AP {row.truth_ap:.2f} ({verdict})", why))
    if row.kind == "cb":
        why = "a concept neuron of the bottleneck; its name is what it was then found to fire on"
        pairs.insert(0, ("Trained for", row.designated, why))
    return pairs


def about(pack: Pack, own: int = 0) -> Markup:
    """Returns what the model is, in numbers with explanations; ``own`` of its concepts are the visitor's."""
    info, scores = pack.info, pack.info["scores"]
    reconstruction = scores["reconstruction"]
    variance = f"{reconstruction['explained_variance']:.1%}"
    encoder, model = info["encoder"], info["model"]
    neurons = f"{model['d_sae']:,}" + (f" + {model['concepts']:,} concepts" if model.get("concepts") else "")
    pairs = [
        ("Encoder", str(encoder["encoder_id"]), "the vision model that is explained"),
        ("Layer", f"{encoder['layer']}, {encoder['tokens']}", "where its activations are read, and of which tokens"),
        ("Neurons", neurons, f"{model['activation']}, k = {model['k']}"),
        ("L0", f"{reconstruction['l0']:.1f}", "neurons that fire on a patch, on average"),
        ("Explained variance", variance, "what the neurons together keep of the input"),
        ("Dead", f"{scores['shares']['dead']:.1%}", "neurons that never fire on the probe images"),
    ]
    right = scores.get("truth", {}).get("name_agreement")  # None where neurons have no names
    if right is not None:
        why = "how often a neuron's name is the concept that it predicts best on images whose content is known"
        pairs.append(("Names that are right", f"{right:.0%}", why))
    if own:
        concepts = f"{own} concept{'s' if own > 1 else ''}"
        pairs.insert(0, ("Yours", concepts, "that you have added; nobody else has them"))
    return PIECES.about(pairs)
