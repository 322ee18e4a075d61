import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from steerable_models import pictures, unclip

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.models import folder_revision
from cbsae_hub.pictures import to_rgb
from training.emoji_world import evaluate, evaluate_unclip, layer_code, train_unclip
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB
from training.emoji_world.render import NO_OBJECT, STYLES, canonical_pictures


def test_judge_answers_with_the_nearest_name(monkeypatch):
    monkeypatch.setattr(evaluate, "concept_names", lambda: ["a", "b", "c"])
    points = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), dim=-1)

    monkeypatch.setattr(evaluate, "BACKGROUNDS", ("c", "b"))

    def texts(lines):  # a prompt is its concept, turned a little by its form
        return F.normalize(torch.stack([points["abc".index(line[-1])] for line in lines]) + 0.01, dim=-1)

    judge = evaluate.Judge(lambda batch: points[[picture.getpixel((0, 0))[0] for picture in batch]], texts)
    answers = judge.answers([Image.new("L", (1, 1), shade) for shade in (0, 1, 2, 0)])
    assert answers == ["a", "b", "c", "a"]
    assert judge.backgrounds([Image.new("L", (1, 1), shade) for shade in (1, 2, 0)]) == ["b", "c", "c"]
    assert evaluate.share(answers, ["a", "c", "c", "b"]) == 50


def test_canonical_pictures_are_of_what_the_rows_say(atlas):
    names = [concept.name for concept in atlas.concepts]
    rows = {
        "objects": [[{"name": names[9]}, {"name": names[2]}], [{"name": names[5]}]],
        "background": ["grass", "red"],
        "style": ["plain", "sketch"],
    }
    expected = canonical_pictures(
        atlas, np.array([[2, 9, NO_OBJECT], [5, NO_OBJECT, NO_OBJECT]]),
        np.array([BACKGROUNDS.index("grass"), BACKGROUNDS.index("red")]), np.array([0, STYLES.index("sketch")]),
    )  # fmt: skip
    drawn = evaluate_unclip.canonical(datasets.Dataset.from_dict(rows), atlas)
    np.testing.assert_array_equal(np.stack([np.asarray(d) for d in drawn]), expected.permute(0, 2, 3, 1))


def test_a_perfect_autoencoder_changes_nothing(monkeypatch):
    monkeypatch.setattr(evaluate_unclip, "BATCH", 2)
    vae = SimpleNamespace(
        device="cpu",
        encode=lambda pixels: SimpleNamespace(latent=pixels * 0.5),
        decode=lambda latents: SimpleNamespace(sample=latents * 2),
    )
    originals = pictures(5)
    for before, after in zip(originals, evaluate_unclip.reconstruct(vae, originals), strict=True):
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_latents_of_scenes_are_decoded(atlas):
    names = [concept.name for concept in atlas.concepts]
    rows = {
        "objects": [[{"name": names[3]}], [{"name": names[5]}]],
        "background": ["grass", "red"],
        "style": ["plain"] * 2,
    }
    scenes = datasets.Dataset.from_dict(rows)
    contents = evaluate_unclip.contents(scenes, atlas)
    code = layer_code.LayerCode.measure(layer_code.weighted_layers(atlas, *contents))  # exact on what it is measured on
    vae = layer_code.build()
    layer_code.start_as_inverse(vae.decoder, code)
    with torch.inference_mode():
        drawn = evaluate_unclip.decode(vae, code, scenes, atlas)
    wanted = evaluate_unclip.canonical(scenes, atlas)
    error = np.stack([np.asarray(d, int) - np.asarray(w, int) for d, w in zip(drawn, wanted)])
    assert np.quantile(np.abs(error), 0.9) < 8


def test_each_drawing_has_its_own_seed_whatever_the_batch(monkeypatch):
    pipeline = unclip()
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(evaluate_unclip, "STEPS", 2)
    monkeypatch.setattr(evaluate_unclip, "BATCH", 2)
    originals = pictures(3)
    drawn = evaluate_unclip.draw(pipeline, originals, guidance=3.0)
    alone = pipeline(
        image=[originals[2]], num_inference_steps=2, guidance_scale=3.0, generator=[torch.Generator().manual_seed(2)]
    ).images[0]
    difference = np.asarray(drawn[2], int) - np.asarray(alone, int)
    assert np.abs(difference).max() <= 1 and np.asarray(alone).std() > 1


def test_contact_sheet_has_a_row_of_each_kind():
    rows = [[Image.new("RGB", (64, 64), (10 * x, 100 * y, 7)) for x in range(20)] for y in range(2)]
    sheet = np.asarray(evaluate_unclip.contact_sheet(rows))
    assert sheet.shape == (2 * 128, 16 * 128, 3)
    for x in range(16):
        for y in range(2):
            tile = sheet[128 * y : 128 * (y + 1), 128 * x : 128 * (x + 1)]
            assert (tile == (10 * x, 100 * y, 7)).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained pipeline beside which figures are written."""
    torch.manual_seed(0)
    normalizer = train_unclip.fit_normalizer(torch.randn(8, 128))
    folder = tmp_path_factory.mktemp("pipeline")
    unet = train_unclip.build_unet(64, 4, 128)
    train_unclip.assemble(unet, normalizer, layer_code.build(), HUB / "emoji-clip").save_pretrained(folder)
    layer_code.LayerCode.measure(torch.rand(2, layer_code.LAYERS, 64, 64)).save(folder / "vae" / train_unclip.CODE)
    return folder


@pytest.fixture
def no_font(monkeypatch):
    """Canonical pictures need the emoji font, which a machine that only runs tests may lack: scenes stand for them."""
    monkeypatch.setattr(Atlas, "build", lambda: None)
    scenes = lambda dataset: [to_rgb(image) for image in dataset["image"]]  # noqa: E731
    monkeypatch.setattr(evaluate_unclip, "canonical", lambda dataset, _: scenes(dataset))
    monkeypatch.setattr(evaluate_unclip, "decode", lambda vae, code, dataset, _: scenes(dataset))


def test_all_is_written(folder, no_font, monkeypatch):
    monkeypatch.setattr(evaluate_unclip, "STEPS", 1)
    before = {path.name for path in folder.iterdir()}
    evaluate_unclip.main(folder, guidance=[1.0, 10.0], scenes=5, reconstructions=False)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures.pop("revision") == folder_revision(folder)
    kinds = ("original", "canonical", "decoded", "reconstructed", "drawn_1", "drawn_10")
    measured = [
        f"{judge}_{part}{kind}" for judge in ("judge", "clip") for kind in kinds for part in ("", "background_")
    ]
    assert list(figures) == ["scenes", "steps", *measured]
    assert figures["scenes"] == 5 and all(0 <= value <= 100 for value in figures.values())
    assert {path.name for path in folder.iterdir()} == before | {"metrics.json", "drawn.png"}
    sheet = np.asarray(Image.open(folder / "drawn.png"))
    first = evaluate.single_objects("test")[0]["image"].convert("RGB")
    np.testing.assert_array_equal(sheet[:128:2, :128:2], np.asarray(first))


def test_figures_of_originals_are_the_encoders_own(folder, no_font, monkeypatch):
    whole = evaluate.single_objects
    some = {"test": whole("test").select(range(64))}
    monkeypatch.setattr(evaluate, "single_objects", lambda split: some.get(split) or whole(split))
    monkeypatch.setattr(evaluate, "ANSWERED", ("test",))
    evaluate_unclip.main(folder, guidance=[10.0], scenes=64, reconstructions=True)
    figures = json.loads((folder / "metrics.json").read_text())
    judge = ClipLike.from_pretrained(HUB / "emoji-judge")
    encoders = {
        "judge": (judge.embed_images, judge.embed_texts),
        "clip": evaluate.transformers_clip(HUB / "emoji-clip"),
    }
    with torch.inference_mode():
        for name, encoder in encoders.items():
            assert figures[f"{name}_canonical"] == figures[f"{name}_original"]
            assert figures[f"{name}_background_original"] > 90
            assert figures[f"{name}_original"] == pytest.approx(evaluate.zero_shot(*encoder)["top1_test"], abs=1e-3)
    assert not any("drawn" in name for name in figures)
