import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from steerable_models import pictures, stable_diffusion

from cbsae_hub.models import folder_revision
from training.emoji_world import evaluate_diffusion, evaluate_unclip, layer_code, train_diffusion
from training.emoji_world.glyphs import Atlas
from training.emoji_world.paths import HUB


def test_captions_name_the_object_and_the_background():
    rows = {"objects": [[{"name": "owl"}], [{"name": "pizza"}]], "background": ["grass", "red"]}
    assert evaluate_diffusion.captions_of(rows) == ["an owl on grass", "a pizza on a red background"]


def test_each_caption_has_its_own_seed_whatever_the_batch(monkeypatch):
    pipeline = stable_diffusion()
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(evaluate_unclip, "STEPS", 2)
    monkeypatch.setattr(evaluate_unclip, "BATCH", 2)
    drawn = evaluate_unclip.draw(pipeline, ["an owl", "a boat", "snow"], 3.0, "prompt")
    generator = torch.Generator().manual_seed(2)
    alone = pipeline(["snow"], num_inference_steps=2, guidance_scale=3.0, generator=[generator]).images[0]
    assert np.abs(np.asarray(drawn[2], int) - np.asarray(alone, int)).max() <= 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An untrained pipeline."""
    monkeypatch.setattr(train_diffusion, "WIDTHS", (16, 32, 32))
    parts = train_diffusion.text_parts(HUB / "emoji-clip")
    pipeline = train_diffusion.assemble(train_diffusion.build_unet(64, 4, 128), layer_code.build_kl(), *parts)
    pipeline.save_pretrained(tmp_path)
    code = layer_code.LayerCode.measure(torch.rand(2, layer_code.LAYERS, 64, 64))
    code.save(tmp_path / "vae" / train_diffusion.CODE)
    return tmp_path


def test_all_is_written(folder, monkeypatch):
    # Canonical pictures need the emoji font, which a machine that only runs tests may lack: scenes stand for them.
    scenes, names, places = pictures(5, 64), ["owl", "pizza", "dog", "owl", "boat"], ["grass", "red", "sand"] * 2
    rows = {"objects": [[{"name": name}] for name in names], "background": places[:5]}
    judged = []
    monkeypatch.setattr(Atlas, "build", lambda: None)
    monkeypatch.setattr(evaluate_diffusion, "single_objects", lambda split: datasets.Dataset.from_dict(rows))
    monkeypatch.setattr(evaluate_diffusion, "canonical", lambda dataset, atlas: scenes)
    monkeypatch.setattr(evaluate_diffusion, "decode", lambda vae, code, dataset, atlas: scenes)
    monkeypatch.setattr(evaluate_diffusion, "judged", lambda *args: judged.append(args) or {"judge_drawn_1": 60.0})
    monkeypatch.setattr(evaluate_unclip, "STEPS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    before = {path.name for path in folder.iterdir()}
    evaluate_diffusion.main(folder, guidance=[1.0, 2.5], captions=4)
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures == {"revision": folder_revision(folder), "captions": 4, "steps": 20, "judge_drawn_1": 60.0}
    kinds, concepts, backgrounds = judged[0]
    assert list(kinds) == ["canonical", "decoded", "drawn_1", "drawn_2.5"] and len(kinds["drawn_1"]) == 4
    assert list(concepts) == names[:4] and list(backgrounds) == places[:4]
    assert {path.name for path in folder.iterdir()} == before | {"metrics.json", "drawn.png"}
    sheet = np.asarray(Image.open(folder / "drawn.png"))
    np.testing.assert_array_equal(sheet[:128:2, :128:2], np.asarray(scenes[0]))
