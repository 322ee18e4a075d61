"""Overlaps of words and pictures against sets, class by class, and maps of patches in cases that are planted."""

import math

import numpy as np
import pytest
import torch
from steerable_models import llava, pictures, sae_for

from cbsae_hub.encoders import ImageTokenEncoder, LanguageEncoder
from cbsae_hub.studies.overlap import (
    LENGTHS,
    active_patches,
    against_shuffled,
    as_markdown,
    class_latents,
    compare_maps,
    compare_words,
    distinctive,
    jaccard,
    patch_maps,
    question_about,
    require_unnamed,
    spread,
    summarise,
    top_features,
)
from cbsae_hub.studies.overlap_figures import PictureMaps, plot_patch_maps, plot_word_overlaps


@pytest.fixture(scope="module")
def encoder():
    return LanguageEncoder(*llava(), 0, "all", max_new_tokens=4)


@pytest.fixture(scope="module")
def sae():
    return sae_for(32, layer=0)


@torch.no_grad()
def test_latents_of_a_class_are_means_over_tokens_and_questions(encoder, sae):
    asked = [(one, "what?") for one in pictures(3)] + [(None, "which dog is it?")]
    owners = [1, 0, 1, 2]
    batches = [(asked[:2], owners[:2]), (asked[2:], owners[2:])]
    found = class_latents(encoder, {"own": sae}, batches, 4)
    assert set(found) == {("own", kind) for kind in ("image", "prompt", "answer")}
    for kind in ("image", "prompt", "answer"):
        reader = encoder.at(0, kind)
        single = [
            sae.encode(reader([one])[0]).mean(0) if one[0] or kind != "image" else torch.zeros(32) for one in asked
        ]
        expected = [single[1], (single[0] + single[2]) / 2, single[3], torch.zeros(32)]
        torch.testing.assert_close(found["own", kind], torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_overlaps_are_those_of_sets():
    generator = torch.Generator().manual_seed(0)
    texts, images = (
        torch.rand(5, 30, generator=generator) * (torch.rand(5, 30, generator=generator) > 0.5) for _ in "ab"
    )
    texts[4] = 0
    share = 0.1

    def top(row):
        return {i for i in sorted(range(30), key=lambda i: -row[i])[: math.ceil(share * 30)] if row[i] > 0}

    tables = compare_words(
        {("m", k): texts for k in ("prompt", "answer")}, {("m", k): images for k in ("answer", "image")}, share
    )
    assert len(tables) == 8
    for features in ("all", "distinctive"):
        first, second = texts, images
        if features == "distinctive":
            first, second = ((one - one.mean(0)).clamp_min(0) for one in (texts, images))
        table = tables["m", "prompt", "image", features]
        for i in range(5):
            shares = [
                len(top(first[i].tolist()) & top(other)) / max(len(top(first[i].tolist()) | top(other)), 1)
                for other in second.tolist()
            ]
            others = shares[:i] + shares[i + 1 :]
            best = 1 / shares.count(max(shares)) if shares[i] == max(shares) else 0
            assert table.loc[i].tolist() == pytest.approx([shares[i], np.mean(others), best])


def test_the_same_things_overlap_wholly_and_others_by_chance():
    generator = torch.Generator().manual_seed(0)
    common = torch.zeros(40, 2000)
    common[:, :15] = 10.0  # what fires whatever is said
    own = common + torch.rand(40, 2000, generator=generator)
    planted = summarise(against_shuffled(jaccard(*(top_features(distinctive(own), 0.01),) * 2)))
    assert planted["matched"] == planted["first"] == 1 and planted["low"] > 0.95
    raw = summarise(against_shuffled(jaccard(*(top_features(own, 0.01),) * 2)))
    assert raw["shuffled"] == pytest.approx(15 / 25, abs=0.02), "15 of 20 are shared by all"
    other = torch.rand(40, 2000, generator=generator)
    nonsense = summarise(against_shuffled(jaccard(top_features(own, 0.5), top_features(other, 0.5))))
    assert nonsense["low"] < 0 < nonsense["high"] and nonsense["first"] == pytest.approx(1 / 40, abs=0.06)
    assert "| overlap | shuffled | difference (95 %) | own one is first, % |" in as_markdown([{"layer": 1} | nonsense])
    with pytest.raises(ValueError, match="two classes or pictures, got 1"):
        against_shuffled(torch.ones(1, 1))


@torch.no_grad()
def test_maps_are_sums_of_latents_where_the_patches_are(encoder, sae):
    shown = pictures(3)
    for tower in ("language", "projector"):
        reader = encoder.at(0, "image", tower)
        maps = patch_maps(ImageTokenEncoder(reader), {"own": sae}, shown)
        for i, v in enumerate(reader(shown)):  # four tokens, two rows of two patches
            torch.testing.assert_close(maps["own"][i].flatten(), sae.encode(v).sum(1), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(maps[LENGTHS][i].flatten(), (v - sae.b_dec).norm(dim=1), atol=1e-4, rtol=1e-4)


def test_maps_that_persist_are_told_from_those_that_do_not():
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.random((30, 4, 4))).float()
    same = compare_maps({"m": maps}, {"m": 3 * maps}, 0.25)["m"]
    assert (same["matched"] == 1).all() and same["first"].mean() == 1 and same["shuffled"].mean() < 0.3
    assert int(active_patches(maps, 0.25).sum()) == 30 * 4
    one, half = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    one[0, 0, 0], half[0, :2] = 7.0, 0.5
    assert spread(torch.cat([one, half, torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])).tolist() == [1 / 16, 0.5, 1, 0]
    place = torch.zeros(30, 4, 4)
    place[:, 1, 1:3] = 1.0  # always in the middle: shuffled pictures overlap as much
    fixed = summarise(compare_maps({"m": place}, {"m": place}, 0.25)["m"])
    assert (fixed["difference"], fixed["spread"]) == (0, 0.125)


def test_questions_name_the_class_and_those_about_pictures_do_not():
    assert question_about("clock", "What is {a}?") == "What is a clock?"
    assert question_about("owl, bird of prey", "{name}: what is {a}?") == "owl: what is an owl?"
    require_unnamed("Describe the image.", ["mage", "clock"])
    with pytest.raises(ValueError, match="names the class 'picture, image'"):
        require_unnamed("Describe this picture.", ["clock", "picture, image"])


def test_figures_show_every_panel_and_picture():
    table = against_shuffled(torch.eye(3))
    figure = plot_word_overlaps({"layer 1": table, "layer 2": table}, ["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes] == ["layer 1", "layer 2"]
    assert [one.get_text() for one in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]
    maps = np.eye(2)
    one = PictureMaps(pictures(1)[0], maps, maps, maps > 0, maps.T[::-1] > 0)
    drawn = plot_patch_maps([one, one], 2)
    overlay = drawn.axes[3].images[1].get_array()
    assert [axes.get_title() for axes in drawn.axes[:4]] == ["picture", "projector", "layer 2", "overlay"]
    assert len({tuple(colour) for colour in np.asarray(overlay).reshape(-1, 4)}) == 2, "there alone, and here alone"
    for draw in (lambda: plot_word_overlaps({}, []), lambda: plot_patch_maps([], 1)):
        with pytest.raises(ValueError, match="to draw"):
            draw()
