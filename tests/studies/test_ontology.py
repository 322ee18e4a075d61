"""Coverage counts against sets of concepts, feature by feature."""

import numpy as np
import pandas as pd
import pytest
import torch

from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.models import SAE
from cbsae_hub.studies.ontology import (
    AS_RARE,
    NEURONS,
    RANDOM,
    SAE_FEATURES,
    SHUFFLED,
    as_markdown,
    best_features,
    coverage_counts,
    densities,
    layer_features,
    strongest_images,
)

KINDS = {"dog": ["corgi", "pug", "husky"], "fish": ["cod", "tuna"], "food": ["bread", "pizza", "soup", "pie"]}
CONCEPTS = sorted(one for kind in KINDS.values() for one in kind)
TREE = ConceptTree.from_edges(
    [("thing", kind) for kind in KINDS] + [(kind, one) for kind, own in KINDS.items() for one in own]
)
IMAGES = 90


@pytest.fixture(scope="module")
def world():
    """An SAE of two tokens an image whose first features are planted: all dogs, two of three dogs, one dog, all."""
    rng = np.random.default_rng(0)
    which = np.arange(IMAGES) % len(CONCEPTS)
    labels = np.eye(len(CONCEPTS), dtype=bool)[which]
    rows = rng.normal(size=(IMAGES, 2, 6))
    planted = [KINDS["dog"], ["corgi", "pug"], ["corgi"], CONCEPTS]
    for channel, own in enumerate(planted):
        rows[:, :, channel] = -1.0
        rows[:, 1, channel] = np.where(labels[:, [CONCEPTS.index(one) for one in own]].any(1), 1.0, -1.0)
    sae = SAE(6, 8, "relu", seed=0)
    with torch.no_grad():
        sae.b_enc.zero_()
        for channel in range(4):
            sae.W_enc[:, channel] = torch.eye(6)[channel]
        sae.W_enc[:, 7], sae.b_enc[7] = 0.0, -1.0  # dead
    rows = torch.from_numpy(rows).float()
    found = layer_features(rows, sae, labels, TREE, CONCEPTS).assign(layer=3)
    return rows, sae, labels, found


def brute_force(active, labels):
    """Concepts, height and coverage of one feature, by sets."""
    covered = [c for i, c in enumerate(CONCEPTS) if active[labels[:, i]].mean() >= 0.5]
    if not 2 <= len(covered) <= len(CONCEPTS) / 2:
        return len(covered), None, np.nan
    fitting = {kind: own for kind, own in {**KINDS, "thing": CONCEPTS}.items() if set(covered) <= set(own)}
    kind = min(fitting, key=lambda one: len(fitting[one]))
    return len(covered), kind, len(covered) / len(fitting[kind])


def test_features_are_those_of_the_definition(world):
    rows, sae, labels, found = world
    with torch.no_grad():
        latents, raw = (sae.encode(rows) > 0).any(1).numpy(), (rows > 0).any(1).numpy()
    for name, active in ((SAE_FEATURES, latents), (NEURONS, raw)):
        part = found[found["set"] == name]
        for row in part.itertuples():
            concepts, kind, coverage = brute_force(active[:, row.neuron], labels)
            assert (row.concepts, row.images) == (concepts, active[:, row.neuron].sum())
            assert row.kind == kind or (kind is None and pd.isna(row.kind))
            assert row.coverage == pytest.approx(coverage, nan_ok=True)
    own = found[found["set"] == SAE_FEATURES]
    assert own["kind"].tolist()[:2] == ["dog", "dog"] and own["coverage"].tolist()[:2] == pytest.approx([1, 2 / 3])


def test_controls_are_as_many_and_as_rare(world):
    *_, found = world
    parts = dict(list(found.groupby("set")))
    assert {name: len(part) for name, part in parts.items()} == {
        SAE_FEATURES: 8, SHUFFLED: 8, NEURONS: 6, RANDOM: 8, NEURONS + AS_RARE: 6, RANDOM + AS_RARE: 8,
    }  # fmt: skip
    alive = set(parts[SAE_FEATURES]["images"]) - {0}
    for name in (NEURONS, RANDOM):
        assert set(parts[name + AS_RARE]["images"]) <= alive
    assert parts[SHUFFLED]["images"].tolist() == parts[SAE_FEATURES]["images"].tolist()


def test_counts_are_over_all_layers(world):
    *_, found = world
    both = pd.concat([found, found.assign(layer=4)])
    for row in coverage_counts(both):
        part = both[both["set"] == row["set"]]
        assert row["features"] == len(part) and row["multi_class"] == part["kind"].notna().sum()
        for least in (0.99, 0.75):
            assert row[f"above_{least}"] == sum(value > least for value in part["coverage"])
        assert row["single_class"] == sum(part["concepts"] == 1)
    assert as_markdown(coverage_counts(both)).startswith("| features | coverage > 0.99 | coverage > 0.75 |")


def test_the_best_features_come_once_for_each_kind(world):
    rows, sae, labels, found = world
    best = best_features(pd.concat([found.assign(layer=4), found]), 5)
    assert best["kind"].is_unique and best.iloc[0][["layer", "neuron", "kind"]].tolist() == [3, 0, "dog"]
    ids = strongest_images(rows, sae, 0, 4)
    dogs = labels[:, [CONCEPTS.index(one) for one in KINDS["dog"]]].any(1)
    assert len(ids) == 4 and dogs[ids].all() and strongest_images(rows, sae, 7, 4) == []
    ((layer, shown),) = densities(found, [3])
    single = shown[shown["concepts"] == 1]
    assert layer == 3 and len(single) and (single["height"] == 0).all() and (single["coverage"] == 1).all()
