import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import build, processor

from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.models import folder_revision


@pytest.fixture
def extract(tmp_path, monkeypatch, cbsae):
    """Calls ``cbsae extract`` with a recipe for a tiny CLIP and five pictures, and with arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    build("CLIPVisionModelWithProjection").save_pretrained(tmp_path / "clip")
    processor("CLIPVisionModelWithProjection").save_pretrained(tmp_path / "clip")
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "recipe.yaml").write_text(
        f"activations: {{encoder: {tmp_path}/clip, layer: -2, tokens: cls, images: {tmp_path}/pictures, "
        f"split: train, output: {tmp_path}/store, dtype: float32}}\n"
    )
    return lambda *arguments: cbsae("extract", "--recipe", tmp_path / "recipe.yaml", *arguments)


def test_recipe_and_overrides_make_a_store_that_says_what_it_is(extract, tmp_path):
    result = extract("--set", "tokens=patches", "--set", "images_per_shard=2", "--output", tmp_path / "other")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path}/other: 20 activations of 5 images\n"
    store = ActivationStore.open(tmp_path / "other")
    pictures = [Image.open(tmp_path / "pictures" / f"{i}.png") for i in range(5)]
    encoder = VisionEncoder.from_pretrained(tmp_path / "clip", layer=2, tokens="patches")
    torch.testing.assert_close(store.read(0, len(store)), encoder(pictures).flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert store.manifest["encoder"]["encoder_revision"] == folder_revision(tmp_path / "clip")
    assert store.manifest["images"] == {"id": f"{tmp_path}/pictures", "split": "train", "revision": None}
    assert len(store.manifest["shards"]) == 3
    assert not (tmp_path / "store").exists()


def test_a_list_of_layers_fills_a_store_for_each(extract, tmp_path):
    result = extract("--set", "layer=[0, -1]", "--set", "tokens=[cls, patches]")
    assert result.exit_code == 0, result.output
    kinds = (("0-cls", 5), ("0-patches", 20), ("3-cls", 5), ("3-patches", 20))
    lines = [f"{tmp_path}/store/layer-{name}: {rows} activations of 5 images" for name, rows in kinds]
    assert result.stdout.splitlines() == lines
    assert ActivationStore.open(tmp_path / "store" / "layer-3-patches").manifest["encoder"]["layer"] == 3


def test_a_function_can_make_the_pictures(extract, tmp_path):
    (tmp_path / "white_pictures.py").write_text(
        "from PIL import Image\n"
        "class White(list):\n"
        "    def __getitem__(self, rows):\n"
        "        return {'image': [Image.new('RGB', (9, 9), 'white') for _ in range(len(self))[rows]]}\n"
        "def make(count):\n"
        "    return White(range(count))\n"
    )
    result = extract("--set", "images=white_pictures:make", "--set", "images_args={count: 6}")
    assert result.exit_code == 0, result.output
    store = ActivationStore.open(tmp_path / "store")
    assert store.num_images == 6
    assert store.manifest["images"] == {"id": "white_pictures:make", "count": 6}
    assert torch.equal(store.read(0, 1), store.read(5, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "batchsize=4"], "readers; did you mean batch_size?"),
        (["--set", "encoder=null"], "the recipe lacks encoder"),
        (["--set", "split=null"], "the recipe lacks split"),
        (["--set", "split=test"], "no split 'test'; it has train"),
        (["--set", "layer=9"], "layer"),
        (["--set", "tokens=some"], "tokens must be"),
        (["--set", "dtype=int8"], "dtype must be 'float16' or 'float32', got 'int8'"),
        (["--set", "images=nowhere:make"], "'nowhere:make' is no module:function of this folder"),
        (["--set", "batch_size"], "key=value"),
    ],
)
def test_mistakes_are_named(extract, tmp_path, arguments, message):
    result = extract(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "store").exists()


def test_other_settings_in_the_same_folder_are_refused(extract, tmp_path):
    assert extract().exit_code == 0
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    result = extract("--set", "seed=1")
    assert result.exit_code == 1
    assert "seed: 0 there, 1 now" in result.stderr
    assert json.loads((tmp_path / "store" / "manifest.json").read_text()) == manifest
