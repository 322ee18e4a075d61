"""Pairs of scenes differ in one thing: in their truth, and in the pixels of the renderer."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from cbsae_hub.data.images import load_images
from training.emoji_world.make_pairs import FEATURES, KINDS, PAIRS, ROUNDS, draw_pairs, pair_rows
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer

TRUTH = {"object": "objects", "place": "objects", "size": "objects"}


@pytest.fixture(scope="module", params=KINDS)
def pairs(request, atlas):
    renderer = SceneRenderer(atlas, seed=5)
    return request.param, renderer, draw_pairs(renderer, request.param)


def last_object(truth):
    return truth["objects"][-1]


def test_the_truth_differs_in_one_thing(pairs):
    kind, renderer, scenes = pairs
    for before, after in zip(*map(renderer.rows, scenes)):
        different = [name for name in before if before[name] != after[name]]
        if kind not in TRUTH:
            boxes = kind == "written_word"  # the label may hide part of an object
            assert [name for name in different if not (boxes and name == "objects")] == [kind]
            continue
        assert different == ["objects"]
        names = [[thing["name"] for thing in truth["objects"]] for truth in (before, after)]
        assert names[0][:-1] == names[1][:-1] and (names[0][-1] == names[1][-1]) == (kind != "object")
        (x0, y0, x1, y1), (u0, v0, u1, v1) = last_object(before)["box"], last_object(after)["box"]
        if kind == "place":
            assert max(abs(x0 + x1 - u0 - u1), abs(y0 + y1 - v0 - v1)) > 8  # twice the way of the centre
        if kind == "size":
            assert abs((x1 - x0) * (y1 - y0) - (u1 - u0) * (v1 - v0)) > 100


def test_pixels_differ_where_the_change_is(pairs):
    kind, renderer, (first, second) = pairs
    changed = (first.pixels != second.pixels).any(1)
    assert changed.flatten(1).any(1).all()
    if kind not in TRUTH:
        return
    for pixels, *truths in zip(changed, renderer.rows(first), renderer.rows(second)):
        allowed = torch.zeros(64, 64, dtype=torch.bool)
        for truth in truths:
            x0, y0, x1, y1 = (int(side) for side in last_object(truth)["box"])
            allowed[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2] = True  # a soft pixel around what is opaque
        assert not (pixels & ~allowed).any()


def test_everything_comes_and_goes_equally_often(pairs):
    kind, renderer, (first, second) = pairs
    column = {"object": "concepts", "background": "backgrounds"}.get(kind)
    assert len(first) == PAIRS.get(kind, len(first))
    if column == "concepts":
        sides = [np.sort(np.where(one.concepts < 0, -1, one.concepts)[changed]) for one, changed in
                 ((one, first.concepts != second.concepts) for one in (first, second))]  # fmt: skip
        assert all(np.bincount(side).tolist() == [ROUNDS[kind]] * len(renderer.atlas.concepts) for side in sides)
    elif column:
        assert all(np.bincount(one.backgrounds).tolist() == [ROUNDS[kind]] * 20 for one in (first, second))
    elif kind in ("style", "written_word"):
        name = {"style": "styles", "written_word": "words"}[kind]
        comes = (getattr(second, name) > 0) if kind == "style" else (second.words >= 0)
        assert comes.sum() * 2 == len(comes)


def test_a_seed_draws_the_same_rows_again(atlas):
    first, again, other = (list(islice(pair_rows(SceneRenderer(atlas, seed), "place", 7), 6)) for seed in (6, 6, 8))
    assert first == again != other
    assert [row["pair"] for row in first] == [7, 7, 8, 8, 9, 9] and {row["change"] for row in first} == {"place"}


def test_the_published_pairs_are_as_the_card_says():
    published = json.loads((HUB / "emoji-pairs" / "metrics.json").read_text())
    numbers = []
    for kind in KINDS:
        split = load_images(HUB / "emoji-pairs", kind)
        assert split.features == FEATURES and len(split) == 2 * published["pairs"][kind]
        assert set(split["change"]) == {kind} and split[0]["image"].size == (64, 64)
        numbers += split["pair"]
    assert numbers == [number for number in range(published["all_pairs"]) for _ in range(2)]
    size = sum(file.stat().st_size for file in (HUB / "emoji-pairs").rglob("*") if file.is_file())
    assert size < 4.5e6
