"""Features that stand for a kind of things: where in a tree of concepts they meet, and how much of it they cover.

After Olson et al., Probing the representational power of sparse autoencoders in vision models, 2025, section 3.5
(table 2, figure 3). The paper says neither when a feature is active nor on which share of a class's images it has to
be; :class:`cbsae_hub.metrics.hierarchy.HierarchyScore` says what is taken here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.metrics.hierarchy import HierarchyScore
from cbsae_hub.models import SAE
from cbsae_hub.studies.layer_saes import random_directions
from cbsae_hub.studies.tables import markdown_table

SAE_FEATURES, SHUFFLED = "SAE features", "SAE features, labels shuffled"
NEURONS, RANDOM = "encoder's neurons", "random vectors"
AS_RARE = ", as rare as the SAE's"
THRESHOLDS = (0.99, 0.75)
BLOCK, ROWS = 2048, 1024


def layer_features(
    rows: Tensor, sae: SAE, labels: np.ndarray, tree: ConceptTree, concepts: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """The kinds of the SAE's features at one layer, beside those of controls.

    The controls: the encoder's own neurons and as many random vectors as the SAE has features, active where they are
    above 0; both once more, each active on the images of its largest values, as many as a feature that was drawn for it
    is active on; and the features with the images' labels shuffled, which is nonsense by construction.

    Args:
        rows: Activations of images, ``[images, tokens, d_in]``. A feature is active on an image if it is at any token.
        sae: The SAE of these activations.
        labels: ``[images, concepts]`` bool.
        tree: The tree that has the concepts as leaves.
        concepts: Names of the labels.
        seed: Seed of vectors, draws and shuffle.

    Returns:
        One row per feature: ``set``, ``neuron``, ``images`` (on which it is active), ``concepts``, ``height``,
        ``coverage``, ``kind``; the last three are NaN or None where
        :class:`cbsae_hub.metrics.hierarchy.CommonKinds` defines none.
    """
    rng = np.random.default_rng(seed)
    origin = sae.b_dec.detach().cpu()
    latents = _strongest(rows, lambda x: sae.encode(x.to(sae.b_dec.device)).cpu(), sae.d_sae)
    raw = _strongest(rows, lambda x: x, sae.d_in)
    vectors = random_directions(sae.d_in, sae.d_sae, seed)
    random = _strongest(rows, lambda x: (x - origin) @ vectors.T, sae.d_sae)
    truth = torch.from_numpy(labels)
    active = (latents > 0).sum(0)
    alive = active[active > 0]
    sets = {
        SAE_FEATURES: (latents > 0, truth),
        NEURONS: (raw > 0, truth),
        RANDOM: (random > 0, truth),
        SHUFFLED: (latents > 0, truth[rng.permutation(len(truth))]),
    }
    if len(alive):
        for name, values in ((NEURONS, raw), (RANDOM, random)):
            counts = alive[torch.from_numpy(rng.integers(len(alive), size=values.shape[1]))]
            sets[name + AS_RARE] = (_largest(values, counts), truth)
    return pd.concat([_kinds(*one, tree, concepts).assign(set=name) for name, one in sets.items()], ignore_index=True)


def _strongest(rows: Tensor, transform: Any, width: int) -> Tensor:
    """The largest value of each feature at any token of an image, ``[images, width]``."""
    out = torch.empty(len(rows), width)
    with torch.no_grad():
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS].float()
            out[start : start + ROWS] = transform(part).amax(1)
    return out


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """Whether a value is among so many largest ones of its column, ``[images, features]`` bool."""
    ranks = values.sort(dim=0, descending=True, stable=True).indices.argsort(dim=0)
    return ranks < counts


def _kinds(active: Tensor, labels: Tensor, tree: ConceptTree, concepts: Sequence[str]) -> pd.DataFrame:
    parts = []
    for start in range(0, active.shape[1], BLOCK):
        block = active[:, start : start + BLOCK]
        score = HierarchyScore(block.shape[1], tree, concepts)
        for first in range(0, len(block), ROWS):
            score.update(block[first : first + ROWS].float(), labels[first : first + ROWS])
        kinds = score.compute()
        columns = {"concepts": kinds.concepts, "height": kinds.height, "coverage": kinds.coverage, "kind": kinds.kind}
        neurons = range(start, start + block.shape[1])
        parts.append(pd.DataFrame({"neuron": neurons, "images": block.sum(0).numpy(), **columns}))
    return pd.concat(parts, ignore_index=True)


def coverage_counts(features: pd.DataFrame) -> list[dict[str, Any]]:
    """Table 2: how many features of each set, over all layers, stand for a kind of at least two concepts.

    Args:
        features: :func:`layer_features` of each layer, one below the other.

    Returns:
        A row for each set: ``set``, ``above_0.99``, ``above_0.75``, ``multi_class`` (features with a coverage),
        ``single_class`` (on one concept, which says nothing of kinds) and ``features``.
    """
    rows = []
    for name, part in features.groupby("set", sort=False):
        counts = {f"above_{least:g}": int((part["coverage"] > least).sum()) for least in THRESHOLDS}
        multi, single = int(part["coverage"].notna().sum()), int((part["concepts"] == 1).sum())
        rows.append({"set": name, **counts, "multi_class": multi, "single_class": single, "features": len(part)})
    return rows


def as_markdown(counts: Sequence[Mapping[str, Any]]) -> str:
    """Table 2 as it stands in the documentation."""
    titles = {"set": "features", **{f"above_{least:g}": f"coverage > {least:g}" for least in THRESHOLDS},
              "multi_class": "of several concepts", "single_class": "of one concept", "features": "of"}  # fmt: skip
    return markdown_table(pd.DataFrame([{titles[key]: row[key] for key in titles} for row in counts]))


def best_features(features: pd.DataFrame, count: int) -> pd.DataFrame:
    """The SAE's features that cover the most of a kind, the largest kinds first; each kind once over all layers."""
    own = features[(features["set"] == SAE_FEATURES) & features["coverage"].notna()]
    order = own.sort_values(["coverage", "concepts", "height", "layer", "neuron"], ascending=[False] * 3 + [True] * 2)
    return order.drop_duplicates("kind").head(count)


def strongest_images(rows: Tensor, sae: SAE, neuron: int, count: int) -> list[int]:
    """Ids of the images on which a neuron is active, strongest first, at most ``count``."""
    values = _strongest(rows, lambda x: sae.encode(x.to(sae.b_dec.device))[..., neuron, None].cpu(), 1)[:, 0]
    order = values.argsort(descending=True, stable=True)[:count]
    return order[values[order] > 0].tolist()


def densities(features: pd.DataFrame, layers: Sequence[int]) -> Iterator[tuple[int, pd.DataFrame]]:
    """Figure 3's data: height and coverage of the SAE's features of each layer, singles at height 0, coverage 1."""
    own = features[features["set"] == SAE_FEATURES]
    for layer in layers:
        part = own[own["layer"] == layer]
        single = part["concepts"] == 1
        dots = part.assign(
            height=part["height"].mask(single, 0.0), coverage=part["coverage"].mask(single, 1.0)
        )  # fmt: skip
        yield layer, dots.dropna(subset=["height", "coverage"])
