import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cbsae_hub import CBSAE, SAE, Pack, VisionEncoder
from cbsae_hub.neurons.chance import MARK, MEANING

HUB = Path(__file__).parents[2] / "hub"


@pytest.fixture(scope="module")
def encoder():
    return VisionEncoder.from_pretrained(HUB / "emoji-clip", layer=4, tokens="patches")


def by_hand(cls, model, encoder, picture):
    """Latents that the decoder reads ``[tokens, neurons]``, and the share of the activations that is kept."""
    sae = cls.from_pretrained(HUB / model)
    with torch.no_grad():
        x = encoder([Image.open(picture)])[0]
        latents = sae.encode(x)
        kept = 1 - (x - sae.decode(latents)).square().sum() / (x - sae.b_dec).square().sum()
        if cls is CBSAE:  # of the concepts, the decoder reads the five largest, if positive
            concepts = latents[:, sae.d_sae :]
            fifth = concepts.topk(5, dim=1).values[:, -1:]
            latents[:, sae.d_sae :] = torch.where(concepts >= fifth, concepts, 0.0).clamp_min(0)
    return latents.numpy(), float(kept)


@pytest.mark.parametrize(("cls", "model"), [(SAE, "emoji-sae"), (CBSAE, "emoji-cbsae")])
def test_numbers_are_those_of_encoder_and_sae_by_hand(answer, encoder, picture, cls, model):
    latents, kept = by_hand(cls, model, encoder, picture)
    seen = answer("inspect", f"hub/{model}", picture, "--limit", 12)["images"][0]
    order = np.argsort(-latents.mean(0), kind="stable")[:12]
    assert [row["neuron"] for row in seen["neurons"]] == order.tolist()
    assert seen["active"] == (latents > 0).any(0).sum()
    assert seen["explained"] == pytest.approx(kept, abs=1e-5)
    frame = Pack.from_pretrained(HUB / model).neurons.frame.set_index("neuron")
    for row in seen["neurons"]:
        own = latents[:, row["neuron"]]
        assert row["mean"] == pytest.approx(own.mean(), rel=1e-5)
        assert row["peak"] == pytest.approx(own.max(), rel=1e-5)
        assert row["share"] == (own > 0).mean()
        facts = frame.loc[row["neuron"]]
        assert (row["density"], row["p99"]) == (facts["density"], facts["p99"])
        assert row["name"] == (facts["designated"] if facts["kind"] == "cb" else facts["name"])


def test_several_pictures_and_a_limit(cbsae, answer, picture, capfd):
    told = answer("inspect", "hub/emoji-sae", picture, "white", "--limit", 3)
    assert [seen["image"] for seen in told["images"]] == [str(picture), "white"]
    assert [len(seen["neurons"]) for seen in told["images"]] == [3, 3]
    assert told["images"][1]["neurons"][0]["name"] == "white"
    assert capfd.readouterr().out == ""  # nor does anything else write there, whatever Python's stdout is
    lines = cbsae("inspect", "hub/emoji-sae", "white", "--limit", 3).stdout.splitlines()
    by_chance = [row["by_chance"] for row in told["images"][1]["neurons"]]
    assert lines[0].startswith("white: ") and len(lines) == 5 + any(by_chance)
    assert [MARK in line for line in lines[2:5]] == by_chance and (MEANING in lines) == any(by_chance)
    assert lines[1].split()[:4] == ["neuron", "name", "mean", "peak"]


def test_density_hides_what_fires_everywhere_but_no_concepts(answer, picture):
    everything = answer("inspect", "hub/emoji-cbsae", picture, "--limit", 1000)["images"][0]["neurons"]
    below = answer("inspect", "hub/emoji-cbsae", picture, "--limit", 1000, "--density-below", 0.05)
    first_concept = CBSAE.from_pretrained(HUB / "emoji-cbsae").d_sae
    expected = [row for row in everything if row["density"] < 0.05 or row["neuron"] >= first_concept]
    assert below["images"][0]["neurons"] == expected
    assert 0 < len(expected) < len(everything)


def test_pictures_are_turned_upright(answer, picture, tmp_path):
    sideways = Image.open(picture).convert("RGB").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    sideways.save(tmp_path / "sideways.png", exif=exif)
    plain, turned = (
        answer("inspect", "hub/emoji-sae", file)["images"][0] for file in (picture, tmp_path / "sideways.png")
    )
    assert turned["neurons"] == plain["neurons"]


@pytest.fixture
def bare(tmp_path):
    """The SAE without a pack."""
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(HUB / "emoji-sae" / file, tmp_path / file)
    return tmp_path


def test_without_a_pack_there_are_numbers_and_no_names(answer, cbsae, picture, bare):
    row = answer("inspect", bare, picture)["images"][0]["neurons"][0]
    with_pack = answer("inspect", "hub/emoji-sae", picture)["images"][0]["neurons"][0]
    assert row["name"] is None
    assert {name: value for name, value in with_pack.items() if name in row} == {**row, "name": with_pack["name"]}
    assert "density" not in cbsae("inspect", bare, picture).stdout
    assert "no pack" in answer("inspect", bare, picture, "--density-below", 0.1, code=1)["error"]


def test_pack_of_another_model_is_refused(answer, picture, tmp_path):
    shutil.copytree(HUB / "emoji-sae", tmp_path / "mixed")
    cb = CBSAE.from_pretrained(HUB / "emoji-cbsae")
    cb.save_pretrained(tmp_path / "mixed")
    assert f"2048 neurons, the model {cb.d_latent}" in answer("inspect", tmp_path / "mixed", picture, code=1)["error"]


def test_pack_of_other_weights_names_nothing(answer, cbsae, picture, tmp_path):
    shutil.copytree(HUB / "emoji-sae", tmp_path / "sae")
    sae = SAE.from_pretrained(tmp_path / "sae")
    sae.b_dec.data += 0.01
    sae.save_pretrained(tmp_path / "sae")
    assert answer("inspect", tmp_path / "sae", picture)["images"][0]["neurons"][0]["name"] is None
    assert "is of other weights and is left out" in cbsae("inspect", tmp_path / "sae", picture).stderr
    steered = cbsae("steer", tmp_path / "sae", "white", "--edit", "zebra=50", "--llava", "hub/emoji-llava")
    assert (steered.exit_code, steered.stdout) == (1, "")
    assert "build it again" in answer("find", tmp_path / "sae", "zebra", code=1)["error"]


def test_pictures_that_cannot_be_opened_are_named(cbsae, picture, tmp_path):
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:400])
    assert "a folder: give the pictures in it" in cbsae("inspect", "hub/emoji-sae", tmp_path).stderr
    for file in (cut, "README.md", tmp_path / "missing.png", tmp_path):
        result = cbsae("inspect", "hub/emoji-sae", file)
        assert (result.exit_code, result.stdout) == (1, "")
        assert str(file) in result.stderr
    missing = cbsae("inspect", "hub/emoji-sae", "white", "--device", "abacus")
    assert missing.exit_code == 1 and "no device 'abacus'" in missing.stderr
