import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from training.emoji_world import latents, layer_code, pushes
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer, SceneSpec

SPEC = SceneSpec(objects=(1, 2))


@pytest.fixture(scope="module")
def renderer(atlas):
    return SceneRenderer(atlas, 3)


@pytest.fixture(scope="module")
def models(renderer):
    scenes = renderer.batch(9, 32, SPEC)
    layers = layer_code.weighted_layers(renderer.atlas, scenes.concepts, scenes.backgrounds)
    return layer_code.LayerCode.measure(layers), latents.load_encoder(HUB / "emoji-clip")


@pytest.fixture
def store(renderer, models, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 8)
    monkeypatch.setattr(latents, "BATCH", 3)
    return lambda made_with="these", pushed=0.0: latents.store_latents(
        tmp_path, 20, latents.EmbeddedScenes(renderer, SPEC, *models, pushed), made_with
    )


def test_stored_rows_are_what_the_models_give_one_by_one(store, renderer, models):
    code, encoder = models
    stored = store()
    assert len(stored) == 24
    ids = np.array([17, 0, 8, 7, 17])
    rows = stored.rows(ids)
    drawn, embedded = rows["latents"], rows["embeddings"]
    processor = CLIPImageProcessor.from_pretrained(HUB / "emoji-clip")
    for row, i in enumerate(ids):
        scenes = renderer.batch(i // 8, 8, SPEC)
        picture = Image.fromarray(scenes.pixels[i % 8].permute(1, 2, 0).numpy())
        one = slice(i % 8, i % 8 + 1)
        layers = layer_code.weighted_layers(
            renderer.atlas, scenes.concepts[one], scenes.backgrounds[one], scenes.styles[one]
        )
        with torch.no_grad():
            embedding = encoder(processor(images=picture, return_tensors="pt").pixel_values).image_embeds[0]
        torch.testing.assert_close(embedded[row], embedding, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(drawn[row], code.encode(layers)[0], atol=4e-3, rtol=1e-3)
    assert drawn.dtype == embedded.dtype == torch.float32
    torch.testing.assert_close(stored.column("embeddings")[ids], embedded, atol=0, rtol=0)


def test_only_missing_shards_are_computed(store, tmp_path, monkeypatch):
    before = store().column("embeddings")
    (tmp_path / "latents-00001.safetensors").unlink()
    untouched = (tmp_path / "latents-00002.safetensors").stat().st_mtime_ns
    encoded, encode = [], latents.encode
    monkeypatch.setattr(latents, "encode", lambda *args: encoded.append(args) or encode(*args))
    torch.testing.assert_close(store().column("embeddings"), before, atol=0, rtol=0)
    assert len(encoded) == 1 and (tmp_path / "latents-00002.safetensors").stat().st_mtime_ns == untouched
    assert len(list(tmp_path.iterdir())) == 3


def test_shards_of_other_models_are_refused(store):
    store()
    with pytest.raises(ValueError, match="made with these, not with those"):
        store("those")


def test_a_share_of_the_rows_are_pushes(store, renderer, models, monkeypatch):
    monkeypatch.setattr(pushes, "BATCH", 32)
    monkeypatch.setattr(pushes, "BATCHES", 8)
    stored = store(pushed=0.25)
    rows = stored.rows(np.arange(8, 16))
    latent, embedded = rows["latents"], rows["embeddings"]
    scenes = renderer.batch(1, 6, SPEC)
    torch.testing.assert_close(embedded[:6], latents.embed(scenes.pixels, models[1]), atol=1e-5, rtol=1e-5)
    further, concepts, backgrounds = pushes.Pushes(models[1], renderer).draw(1, 2)
    torch.testing.assert_close(embedded[6:], further, atol=1e-5, rtol=1e-5)
    targets = latents.encode(models[0], renderer.atlas, concepts, backgrounds)
    torch.testing.assert_close(latent[6:], targets.float())
