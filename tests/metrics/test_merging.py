"""Whatever the batches, the processes, the order and the form of the latents: merged metrics are the metric of all."""

from dataclasses import asdict, is_dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.metrics import (
    ActiveLatents,
    CollateralDamage,
    CommonAncestorDepth,
    DirectionMatch,
    Dissector,
    DownstreamCost,
    GroundTruth,
    HierarchyScore,
    MonosemanticityScore,
    NeuronActivity,
    Reconstruction,
    Switches,
    TopImages,
    TrueDirections,
    Uniqueness,
)

NEURONS, TOKENS, WIDTH, CONCEPTS = 4, 3, 5, 3
TREE = ConceptTree.from_edges([("thing", "animal"), ("animal", "cat"), ("animal", "dog"), ("thing", "cup")])
LEAVES = ["cat", "dog", "cup"]
ROWS = torch.randn(NEURONS, WIDTH, generator=torch.Generator().manual_seed(9))
TEXTS = F.normalize(torch.randn(CONCEPTS, WIDTH, generator=torch.Generator().manual_seed(8)).double(), dim=1)


def make_images(count, share, seed):
    """What the metrics are given of some images; latents have ties, silent images and, of some neurons, no activity."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, NEURONS, generator=generator).mul(4).round().div(4).relu()
    latents *= torch.rand(count, NEURONS, generator=generator) < share
    x = torch.randn(count, TOKENS, WIDTH, generator=generator)
    active = torch.rand(count, TOKENS, 2, generator=generator) < share
    logits = torch.randn(3, count, CONCEPTS, generator=generator)
    return {
        "ids": torch.randperm(1000, generator=generator)[:count],
        "latents": latents,
        "embeddings": F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1),
        "labels": torch.rand(count, CONCEPTS, generator=generator) < 0.4,
        "others": torch.rand(count, CONCEPTS, generator=generator) < 0.4,
        "changes": torch.randint(-1, 2, (count, CONCEPTS), generator=generator),
        "x": x,
        "decoded": x + 0.3 * torch.randn(count, TOKENS, WIDTH, generator=generator),
        "values": torch.randn(count, TOKENS, 2, generator=generator).exp() * active,
        "owners": torch.randint(NEURONS, (count, TOKENS, 2), generator=generator),
        "targets": torch.randint(-1, CONCEPTS, (count,), generator=generator),
        **dict(zip(("original", "reconstructed", "zeroed"), logits)),
    }


def form(latents, sparse):
    return latents.to_sparse() if sparse else latents


def logits_of(images):
    return {name: images[name] for name in ("original", "reconstructed", "zeroed")}


METRICS = {
    "activity": (
        lambda: NeuronActivity(NEURONS),
        lambda m, i, s: m.update(i["values"].flatten(0, 1), i["owners"].flatten(0, 1)),
    ),
    "active": (lambda: ActiveLatents(NEURONS, TOKENS), lambda m, i, s: m.update((i["values"] > 0).sum(-1))),
    "reconstruction": (
        lambda: Reconstruction(WIDTH),
        lambda m, i, s: m.update(i["x"].flatten(0, 1), i["decoded"].flatten(0, 1), (i["values"] > 0).sum(-1).flatten()),
    ),
    "top images": (lambda: TopImages(NEURONS, 4), lambda m, i, s: m.update(form(i["latents"], s), i["ids"])),
    "uniqueness": (lambda: Uniqueness(NEURONS, 2), lambda m, i, s: m.update(form(i["latents"], s), i["ids"])),
    "monosemanticity": (
        lambda: MonosemanticityScore(NEURONS, WIDTH),
        lambda m, i, s: m.update(form(i["latents"], s), i["embeddings"]),
    ),
    "truth": (lambda: GroundTruth(NEURONS), lambda m, i, s: m.update(form(i["latents"], s), i["labels"], i["ids"])),
    "kinds": (
        lambda: HierarchyScore(NEURONS, TREE, LEAVES),
        lambda m, i, s: m.update(form(i["latents"], s), i["labels"]),
    ),
    "ancestor depth": (
        lambda: CommonAncestorDepth(NEURONS, TREE, LEAVES, 3),
        lambda m, i, s: m.update(form(i["latents"], s), i["labels"], i["ids"]),
    ),
    "downstream": (lambda: DownstreamCost(), lambda m, i, s: m.update(i["targets"], **logits_of(i))),
    "switches": (lambda: Switches(CONCEPTS), lambda m, i, s: m.update(i["labels"], i["others"], i["changes"])),
    "true directions": (
        lambda: TrueDirections(CONCEPTS, WIDTH),
        lambda m, i, s: m.update(i["embeddings"], i["x"][:, 0], i["changes"]),
    ),
    "direction match": (
        lambda: DirectionMatch(ROWS, TEXTS),
        lambda m, i, s: m.update(form(i["latents"], s), i["labels"]),
    ),
    "collateral": (
        lambda: CollateralDamage(CONCEPTS),
        lambda m, i, s: m.update(i["original"], i["reconstructed"], i["targets"].clamp_min(0)),
    ),
    **{
        method: (
            lambda method=method: Dissector(NEURONS, TEXTS, method, top_k=6),
            lambda m, i, s: m.update(form(i["latents"], s), i["embeddings"].double(), i["ids"]),
        )
        for method in ("soft_wpmi", "cosine", "cosine_cubed", "rank_reorder")
    },
}


def numbers(result):
    """Every number of a result, by a name for it."""
    if is_dataclass(result):
        result = asdict(result)
    if isinstance(result, dict):
        return {f"{name}/{key}": value for name, part in result.items() for key, value in numbers(part).items()}
    if isinstance(result, tuple):
        return numbers(dict(enumerate(result)))
    return {"": result if isinstance(result, list) else np.asarray(result)}


@st.composite
def streams(draw):
    """Images, and a way to hand them out: process of each batch, sizes of batches, order, sparse or dense."""
    count = draw(st.integers(1, 24))
    images = make_images(count, draw(st.sampled_from([0.0, 0.2, 0.7, 1.0])), draw(st.integers(0, 10**6)))
    order = torch.tensor(draw(st.permutations(range(count))))
    batches = order.split(draw(st.integers(1, count)))
    processes = draw(st.integers(1, 4))
    owners = draw(st.lists(st.integers(0, processes - 1), min_size=len(batches), max_size=len(batches)))
    sparse = draw(st.lists(st.booleans(), min_size=len(batches), max_size=len(batches)))
    return images, [(batch, owner, form) for batch, owner, form in zip(batches, owners, sparse)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(streams())
def test_a_merged_metric_is_the_metric_of_all_images(stream):
    images, batches = stream
    used = list(dict.fromkeys(owner for _, owner, _ in batches))
    for name, (make, update) in METRICS.items():
        whole, parts = make(), {owner: make() for owner in used}
        update(whole, images, False)
        for rows, owner, sparse in batches:
            update(parts[owner], {key: value[rows] for key, value in images.items()}, sparse)
        merged = parts[used[-1]]
        for owner in used[:-1]:
            merged.merge_state(parts[owner])
        found, expected = numbers(merged.compute()), numbers(whole.compute())
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            if isinstance(value, list) or value.dtype.kind not in "fc":
                assert np.array_equal(found[key], value) if not isinstance(value, list) else found[key] == value, name
            else:
                np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-7, err_msg=f"{name} {key}")
