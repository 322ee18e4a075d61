"""A neuron that fires on brightness lights up where a bright patch was planted: in the pack, on the page, in plots."""

import copy
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from planted import SIZES, Planted, brightest, planted_hub, seen_box
from small_hub import CONCEPTS, make_pack

from cbsae_hub.plots import plot_examples
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.scoring.card_pictures import write_pictures
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.view import html

KINDS = ("crops", "crops more", "squashes", "pads", "pads to a square")
SHAPES = {"square": (64, 64), "tall": (96, 64), "wide": (64, 96)}
CASES = [
    *((kind, "square", size) for kind in KINDS for size in ("wide", "tall")),
    *((kind, shape, "square") for kind in ("crops more", "squashes", "pads to a square") for shape in ("tall", "wide")),
    ("crops", "tall", "wide"),
    ("crops", "square", "square"),
]


def at_of(heat):
    """Middle of the brightest cell, or of all that are as bright, as shares of width and height."""
    y, x = np.nonzero(heat > 0.9 * heat.max())
    return (x.mean() + 0.5) / heat.shape[1], (y.mean() + 0.5) / heat.shape[0]


def is_over(heat, shown):
    """Whether the bright cells cover the bright patch of what is shown, to a cell."""
    (x, y), (u, v) = at_of(heat), brightest(shown)
    return abs(x - u) < 1 / heat.shape[1] and abs(y - v) < 1 / heat.shape[0]


def world_of(folder, kind, shape, size, tokens="patches"):
    sae, encoder, judge, saved = planted_hub(folder, kind, *shape, tokens=tokens)
    images = Planted(size, seen_box(kind, size, *shape), encoder.grid)
    scorer = NeuronScorer(sae, encoder, judge, {"c": CONCEPTS}, truth=Truth.read(images, {}))
    return make_pack(scorer, images, saved), LoadedModel(saved), images


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request, tmp_path_factory):
    kind, shape, size = request.param
    return world_of(tmp_path_factory.mktemp("planted"), kind, SHAPES[shape], SIZES[size])


@pytest.fixture
def padded(case):
    """Whether the processor pads whatever it gets: a sample, which shows what the encoder saw, once more."""
    return case[1].encoder.processor.size.get("shortest_edge", 999) < 64


def test_maps_of_the_pack_lie_over_its_pictures(case):
    pack, model, _ = case
    examples = pack.examples(0)
    assert len(examples) >= 4 and pack.cropped
    for example in examples:
        rows, columns = example.patch_map.shape
        assert (rows, columns) == pack.grid == model.encoder.grid
        assert abs(example.image.width - example.image.height * columns / rows) <= 1, "cells are square"
        assert is_over(example.patch_map, example.image)


def test_the_page_draws_them_there(case):
    pack, _, _ = case
    example = pack.examples(0)[0]
    drawn = html.strips(pack, 0, ("top",)).split("<figure")[1]
    rows, columns = pack.grid
    assert f"aspect-ratio:{columns}/{rows}" in drawn and "object-fit:fill" in drawn
    cells = re.findall(r'<rect x="(\d+)" y="(\d+)" width="1" height="1" fill="rgba\(\d+,\d+,\d+,([\d.]+)', drawn)
    heat = np.zeros(pack.grid)
    for x, y, opacity in cells:
        heat[int(y), int(x)] = float(opacity) - 0.35
    assert is_over(heat, example.image)


def test_inspect_draws_them_there_for_uploads_and_samples(case, padded):
    pack, model, images = case
    number = pack.examples(0)[0].image_id
    pictures = {"mine~a": images[number]["image"], f"s{number}": pack.image(number)}
    if padded:
        pictures.popitem()
    store = SimpleNamespace(get=lambda name, pack: pictures[name])
    page = InspectTab(SimpleNamespace(model_of=lambda _: model, serving=SimpleNamespace(images=store)))
    maps = []
    for name in pictures:
        grid = str(page.where(None, name, False, "", "0")[2])
        strengths = [float(value) for value in re.findall(r"strength (\d\.\d\d)", grid)]
        maps.append(np.array(strengths).reshape(model.encoder.grid))
        ratio = float(re.search(r"aspect-ratio:([\d.]+)", grid)[1])
        assert ratio == pytest.approx(pack.grid[1] / pack.grid[0], rel=1e-3)
        assert is_over(maps[-1], Image.open(io.BytesIO(model.inspect(pictures[name], name[0] == "s").webp)))
    (x, y), (u, v) = at_of(maps[0]), at_of(maps[-1])
    assert abs(x - u) <= 1 / pack.grid[1] and abs(y - v) <= 1 / pack.grid[0], "the sample is seen as it was scored"


def test_plots_draw_them_there(case):
    pack, _, _ = case
    examples = pack.examples(0)[:2]
    axes = plot_examples([examples], ["bright"]).axes
    for column in range(len(examples)):
        (picture,), (heat,) = axes[column].images, axes[len(examples) + column].images
        assert is_over(np.asarray(heat.get_array()), Image.fromarray(np.asarray(picture.get_array())))


def test_the_cards_pictures_are_written(case, tmp_path):
    write_pictures(case[1].model_id)


@pytest.mark.parametrize("tokens", ["all", "cls", "mean", "random:3"])
def test_only_patches_have_a_grid(tmp_path, tokens):
    pack, model, images = world_of(tmp_path, "crops", (96, 64), (70, 120), tokens)
    if tokens == "random:3":  # make_pack has scored the drawn ones; the page looks at all
        assert pack.grid is None and model.encoder.tokens == "all" and model.inspect(images[0]["image"]).grid == (12, 8)
        return
    seen = model.inspect(images[0]["image"])
    if tokens == "all":
        example = pack.examples(0)[0]
        assert pack.grid == seen.grid == (12, 8) and is_over(example.patch_map, example.image)
        assert np.array(pack.info["scores"]["l0"]["patch_map"]).shape == (12, 8)
        return
    assert pack.grid is None and seen.grid is None
    assert "cb-heat" not in html.strips(pack, 0)
    store = SimpleNamespace(get=lambda name, pack: images[0]["image"])
    page = InspectTab(SimpleNamespace(model_of=lambda _: model, serving=SimpleNamespace(images=store)))
    _, patch, grid, error, *_ = page.where(None, "mine~a", False)
    assert (
        patch == "" and "cb-cell" not in grid and (tokens in grid or tokens == "mean") and "Most is lost" not in error
    )
    with pytest.raises(Refused, match="no such patch"):
        InspectTab.at_patch.__wrapped__(page, SimpleNamespace(patch=0), None, "mine~a", False)


def test_an_older_pack_has_its_pictures_whole(tmp_path):
    pack, _, _ = world_of(tmp_path, "crops", (64, 64), SIZES["wide"])
    old = copy.copy(pack)
    old.info = {name: part for name, part in pack.info.items() if name != "cropped"}
    assert not old.cropped and "object-fit:cover" in html.strips(old, 0)
