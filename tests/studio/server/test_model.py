"""What an inspection says, and who is near a neuron."""

import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_hub import CONCEPTS, Pictures, make_hub, make_pack
from tiny_models import processor

from cbsae_hub.encoders.relevance import at_resolution
from cbsae_hub.scoring import NeuronScorer, Truth
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.links import MAPS
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.tabs.inspect_image import InspectTab
from cbsae_hub.studio.tabs.neuron import relevancy_strip
from cbsae_hub.studio.view import html


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    sae, encoder, judge, folder = make_hub(tmp_path_factory.mktemp("hub"))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={}, alt_column="caption")
    info = (folder / "pack.json").read_text().replace(str(folder.parent / "judge"), "me/judge")
    (folder / "pack.json").write_text(info)
    return LoadedModel(folder)


def test_an_inspection_is_the_models_own_numbers(loaded):
    picture = Pictures()[7]["image"]
    seen = loaded.inspect(picture)
    with torch.no_grad():
        x = loaded.encoder([picture])[0]
        z, decoded = loaded.sae(x)
        error, size = (x - decoded).square().sum(1), (x - loaded.sae.b_dec).square().sum(1)
    assert set(seen.active) == set(z.any(0).nonzero().ravel().tolist())
    np.testing.assert_allclose(seen.latents, z[:, seen.active.tolist()], atol=1e-5)
    assert (np.diff(seen.latents.mean(0)) <= 1e-7).all(), "strongest first"
    assert seen.explained == pytest.approx(1 - (error.sum() / size.sum()).item(), abs=1e-5)
    np.testing.assert_allclose(seen.token_error, error / size, rtol=1e-4)


def test_the_picture_is_shown_as_the_encoder_sees_it(loaded):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("lime", (20, 0, 40, 20))  # the centre crop is all green
    with Image.open(io.BytesIO(loaded.inspect(wide).webp)) as shown:
        centre = np.asarray(shown.convert("RGB"), int).reshape(-1, 3).mean(0)
    assert centre[1] > 200 and centre[0] < 60


def test_a_model_of_drawn_tokens_is_inspected_on_all_of_them(loaded):
    drawn = LoadedModel(loaded.model_id)
    drawn.sae.provenance = replace(drawn.sae.provenance, tokens="random:2")
    seen, plain = drawn.inspect(Pictures()[7]["image"]), loaded.inspect(Pictures()[7]["image"])
    assert drawn.encoder.tokens == "all"
    assert (len(plain.latents), plain.grid, plain.before) == (4, (2, 2), 0)
    assert (len(seen.latents), seen.grid, seen.before) == (5, (2, 2), 1), "CLS comes before the patches"
    for place, neuron in enumerate(seen.active.tolist()):
        of_patches = plain.latents[:, plain.active == neuron].ravel()
        np.testing.assert_allclose(seen.latents[1:, place], of_patches if len(of_patches) else 0, atol=1e-5)
    pictures = SimpleNamespace(get=lambda name, pack: Pictures()[7]["image"])
    page = InspectTab(SimpleNamespace(model_of=lambda _: drawn, serving=SimpleNamespace(images=pictures)))
    neuron = next(n for n, strengths in zip(seen.active, seen.latents.T) if strengths[1:].any())
    _, patch, grid, *_ = page.where(None, "s7", False, "", str(neuron))
    strengths = seen.latents[:, seen.active == neuron].ravel()
    assert patch == "" and grid.count("cb-cell") == 4
    assert f"{(strengths[1:] > 0).sum()} of 4 patches, and " in grid
    strongest = int(strengths[1:].argmax())
    _, patch, _, _, chosen, _ = page.at_patch(SimpleNamespace(patch=strongest), None, "s7", False)
    assert patch == str(strongest)
    assert f"row {strongest // 2 + 1}, column {strongest % 2 + 1}" in chosen.label
    assert {int(value) for _, value in chosen.choices} <= set(seen.active[seen.latents[1 + strongest] > 0].tolist())
    with pytest.raises(Refused, match="no such patch"):
        InspectTab.at_patch.__wrapped__(page, SimpleNamespace(patch=4), None, "s7", False)


RELEVANCY = next(title for title, code in MAPS.items() if code == "relevancy")


def test_relevancy_maps_lie_over_the_picture_at_its_resolution(loaded):
    picture = Pictures()[7]["image"]
    pictures = SimpleNamespace(get=lambda name, pack: picture)
    page = InspectTab(SimpleNamespace(model_of=lambda _: loaded, serving=SimpleNamespace(images=pictures)))
    seen = loaded.inspect(picture)
    neuron = int(seen.active[0])
    *_, grid, _, chosen, _ = page.where(None, "mine~a", False, "", str(neuron), RELEVANCY)
    layer, below = (
        Image.open(io.BytesIO(base64.b64decode(found)))
        for found in re.findall(r"url\(data:image/webp;base64,([^)]*)\)", grid)
    )
    assert layer.size == below.size == seen.size and layer.mode == "RGBA"
    heat = loaded.encoder.relevance([picture], loaded.sae, neuron)[0]
    fine = at_resolution(heat[None] / heat.max(), layer.height, layer.width)[0].numpy()
    opacity = np.where(fine > 0, 0.35 + 0.45 * fine, 0)
    assert np.abs(np.asarray(layer)[..., 3] / 255 - opacity).mean() < 0.02
    assert "gradients times attention" in grid and grid.count("cb-cell") == 4 and chosen.value == str(neuron)
    strip = relevancy_strip(loaded, neuron)
    assert strip.count("<figure") == strip.count("cb-heat") == len(loaded.pack.examples(neuron, "top", 9))
    dead = next(n for n in range(32) if loaded.pack.neurons[n].status == "dead")
    assert relevancy_strip(loaded, dead) == html.strips(loaded.pack, dead)


def test_siblings_are_found_and_a_missing_judge_is_survived(loaded, tmp_path, caplog):
    assert loaded.judge is not None and loaded.encoder.repo_id == "me/encoder"
    lonely = LoadedModel(loaded.model_id)
    lonely.pack.info["judge"]["id"] = str(tmp_path)
    lonely.pack.info["judge"]["revision"] = None
    assert lonely.judge is None
    assert "no search by meaning" in caplog.text


def test_neighbours_are_those_of_the_decoder(loaded):
    rows = torch.nn.functional.normalize(loaded.sae.W_dec.detach(), dim=1)
    cosines = (rows[3] @ rows.T).tolist()
    expected = sorted((i for i in range(len(cosines)) if i != 3), key=lambda i: -cosines[i])[:4]
    found = loaded.neighbours(3, 4)
    assert [neuron for neuron, _ in found] == expected
    assert [cosine for _, cosine in found] == pytest.approx([cosines[i] for i in expected], abs=1e-6)


def test_the_page_calls_a_folder_by_its_name(loaded):
    assert loaded.name == loaded.key == "sae" and loaded.label == "sae"
    assert loaded.evaluation == {} and loaded.alpha is None


def test_tall_pictures_have_tall_grids_and_maps(tmp_path):
    """24 x 16 pixels, 3 rows of 2 patches: what is shown, chosen and answered is at the right row and column."""
    sae, encoder, judge, folder = make_hub(tmp_path, "Dinov2Model", processor("Dinov2Model", 24, 16))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={})
    info = json.loads((folder / "pack.json").read_text())
    tall = LoadedModel(folder)
    seen = tall.inspect(Pictures()[3]["image"])
    with Image.open(io.BytesIO(seen.webp)) as shown:
        assert shown.width / shown.height == seen.ratio == 2 / 3
    serving = Serving([folder])
    buffer = io.BytesIO()
    Pictures()[3]["image"].save(buffer, "png")
    answer = Api(serving).encode_image(base64.b64encode(buffer.getvalue()).decode(), 5)
    for place, neuron in enumerate(answer["neurons"]):
        assert neuron["patch"] == [*divmod(int(seen.latents[:, place].argmax()), 2)]
    neuron = next(row.neuron for row in tall.pack.neurons if tall.pack.examples(row.neuron))
    drawn = html.strips(tall.pack, neuron)
    assert 'style="aspect-ratio:2/3"' in drawn and "object-fit:fill" in drawn and 'viewBox="0 0 2 3"' in drawn
    assert info["encoder"]["preprocessing"]["do_center_crop"] is True
    tall.pack.info.pop("cropped")  # as in an older pack, whose pictures are whole
    assert "object-fit:cover" in html.strips(tall.pack, neuron)
    tall.pack.info["encoder"]["preprocessing"].pop("do_center_crop")
    assert "object-fit:fill" in html.strips(tall.pack, neuron), "squashed, as the encoder sees it"


def test_what_the_encoder_leaves_out_at_the_edge_is_not_shown(tmp_path):
    """Of 27 x 18 pixels it reads 3 x 2 patches of 8: only those are under the grid."""
    sae, encoder, judge, folder = make_hub(tmp_path, "Dinov2Model", processor("Dinov2Model", 27, 18))
    scorer = NeuronScorer(sae, encoder, judge, {"colours": CONCEPTS}, truth=Truth.read(Pictures(), {}))
    make_pack(scorer, Pictures(), folder, source={})
    seen = LoadedModel(folder).inspect(Pictures()[3]["image"])
    with Image.open(io.BytesIO(seen.webp)) as shown:
        assert shown.width / shown.height == seen.ratio == 2 / 3
