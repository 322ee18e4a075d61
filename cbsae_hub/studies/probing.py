"""Probes of an SAE's latents on shifted images, and its reconstruction error as a detector of strange ones.

After Olson et al., Probing the representational power of sparse autoencoders in vision models, 2025, sections 3.3, 3.4
and supplement A and C (table 1, figures 2, 8, 10 and 12). All features have the same solver and the same search, see
:mod:`cbsae_hub.metrics.linear_probe`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from cbsae_hub.metrics.linear_probe import Features, LinearProbe, search_probe
from cbsae_hub.metrics.out_of_distribution import NearestClass, auroc, image_errors, unsureness
from cbsae_hub.models import SAE
from cbsae_hub.studies.layer_saes import random_directions
from cbsae_hub.studies.tables import markdown_table

Transform = Callable[[Tensor], Tensor]

RAW, LATENTS, PRE, RANDOM = "raw embedding", "SAE latents", "SAE pre-activations", "random features"
ERROR, CLASS, SOFTMAX, LENGTH = "reconstruction error", "Mahalanobis distance", "maximum softmax", "distance from mean"
CHOSEN_ON = 0.1  # share of the training images on which the penalty is chosen
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ImageSet:
    """Activations and classes of images.

    Attributes:
        rows: ``[images, tokens, d_in]``.
        targets: ``[images]`` int64; -1 for images that do not count.
        kind: "shift", "near" or "far", see :class:`cbsae_hub.pipeline.sections.ShiftedImages`.
        mask: Whether a probe chooses among these images' classes alone.
    """

    rows: Tensor
    targets: Tensor
    kind: str = "shift"
    mask: bool = False


def transforms(sae: SAE, seed: int) -> dict[str, Transform]:
    """The features that a probe may read, by name; random ones are an untrained SAE's, of the same width."""
    device, vectors = sae.b_dec.device, random_directions(sae.d_in, sae.d_sae, seed).to(sae.b_dec.device)
    return {
        RAW: lambda x: x.to(device),
        LATENTS: lambda x: sae.encode(x.to(device)),
        PRE: lambda x: sae.hidden(x.to(device)),
        RANDOM: lambda x: ((x.to(device) - sae.b_dec) @ vectors.T).relu(),
    }


def fitted(train: ImageSet, transform: Transform, classes: int, seed: int) -> LinearProbe:
    """A probe of features of the training images; the seed draws those on which its penalty is chosen."""
    chosen_on = torch.from_numpy(np.random.default_rng(seed).random(len(train.rows)) < CHOSEN_ON)
    return search_probe(Features(train.rows, transform), train.targets, classes, chosen_on)


@torch.no_grad()
def accuracies(probe: LinearProbe, transform: Transform, sets: Mapping[str, ImageSet]) -> dict[str, float]:
    """Share of the images of each set that a probe classifies right; NaN for a set without labels."""
    shares = {}
    for name, one in sets.items():
        counts = one.targets >= 0
        logits = probe.logits(Features(one.rows[counts], transform)).cpu() if counts.any() else torch.empty(0, 1)
        if one.mask:
            absent = torch.ones(logits.shape[1], dtype=torch.bool)
            absent[one.targets[counts].unique()] = False
            logits[:, absent] = -torch.inf
        shares[name] = float((logits.argmax(1) == one.targets[counts]).float().mean())
    return shares


def errors(sae: SAE, sets: Mapping[str, ImageSet], usual: str) -> dict[str, dict[str, float]]:
    """Mean squared error, L1, L0 and explained variance of an SAE on each set, and the AUROC of the error.

    The AUROC is of telling the set's images from those of ``usual``, for sets of near and far images.
    """
    of_usual = image_errors(sae, sets[usual].rows)
    table = {}
    for name, one in sets.items():
        own = of_usual if name == usual else image_errors(sae, one.rows)
        flat = one.rows.flatten(0, 1).float()
        row = {key: float(values.mean()) for key, values in vars(own).items()}
        row["explained_variance"] = 1 - row["mse"] / float(flat.var(0, correction=0).mean())
        if one.kind != "shift":
            row["auroc"] = auroc(of_usual.mse, own.mse)
        table[name] = row
    return table


def detectors(
    sae: SAE, probe: LinearProbe, train: ImageSet, sets: Mapping[str, ImageSet], usual: str
) -> dict[str, dict[str, float]]:
    """AUROC of each way to tell near and far images from the usual ones, by its name and the set's.

    Args:
        sae: The SAE whose reconstruction error tells.
        probe: A probe of the raw embedding, whose unsureness tells.
        train: The training images: those with a class give the Mahalanobis distance.
        sets: Images.
        usual: The set of usual images.
    """
    pooled = train.rows.float().mean(1)
    mean, nearest = pooled.mean(0), NearestClass(pooled, train.targets)
    raw = transforms(sae, 0)[RAW]
    scores: dict[str, Callable[[Tensor], Tensor]] = {
        ERROR: lambda rows: image_errors(sae, rows).mse,
        CLASS: lambda rows: nearest(rows.float().mean(1)),
        SOFTMAX: lambda rows: unsureness(probe.logits(Features(rows, raw))),
        LENGTH: lambda rows: (rows.float().mean(1) - mean).square().sum(1),
    }
    strange = {name: one for name, one in sets.items() if one.kind != "shift"}
    table = {}
    for way, score in scores.items():
        inside = score(sets[usual].rows)
        table[way] = {name: auroc(inside, score(one.rows)) for name, one in strange.items()}
    return table


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds, and half of its 95 % interval by Student's t; NaN for a single one."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def over_seeds(rows: Sequence[Mapping[str, Any]], by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean and half interval over the rows that agree in ``by``: columns ``by``, ``mean``, ``half``, ``seeds``."""
    groups = pd.DataFrame(list(rows)).astype({value: float}).groupby(list(by), sort=False)[value]
    return pd.DataFrame(
        [
            dict(zip(by, key)) | dict(zip(("mean", "half"), spread(part.tolist())), seeds=len(part))
            for key, part in groups
        ]
    )


def table_of(summary: pd.DataFrame, line: Sequence[str], column: str, scale: float = 100, digits: int = 1) -> str:
    """A summary in Markdown: a line for each value of ``line``, a column for each of ``column``."""

    def cell(mean: float, half: float) -> str:
        if math.isnan(mean):
            return ""
        interval = "" if math.isnan(half) else f" ± {scale * half:.{digits}f}"
        return f"{scale * mean:.{digits}f}{interval}"

    cells = summary.assign(cell=[cell(*pair) for pair in zip(summary["mean"], summary["half"])])
    lines = []
    for key, part in cells.groupby(list(line), sort=False):
        lines.append(dict(zip(line, key)) | dict(zip(part[column], part["cell"])))
    return markdown_table(pd.DataFrame(lines).fillna(""))
