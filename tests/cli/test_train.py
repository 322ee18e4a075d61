import json

import numpy as np
import pytest
import typer
from PIL import Image
from tiny_models import build, processor
from typer.testing import CliRunner

from cbsae_hub import SAE
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.vision import VisionEncoder
from training.train_sae import main


class Pictures:
    def __len__(self):
        return 60

    def __getitem__(self, rows):
        pixels = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8) for i in range(60)[rows]]
        return {"image": [Image.fromarray(p) for p in pixels]}


@pytest.fixture
def train_sae():
    """Calls training/train_sae.py with arguments."""
    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path):
    encoder = VisionEncoder(build("CLIPVisionModel"), processor("CLIPVisionModel"), 1, "patches", "me/tiny", "abc")
    source = {"id": "noise", "split": "train"}
    return extract_activations(encoder, Pictures(), tmp_path / "store", source=source)


def test_recipe_and_overrides_train_an_sae_that_says_where_it_comes_from(train_sae, store, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sae: {k: 3, expansion: 2, steps: 999, warmup_steps: 2, lr: 1e-3, heldout_fraction: 0.2}\n")
    arguments = ["--recipe", recipe, "--activations", store.folder, "--output", tmp_path / "sae", "--set", "steps=12"]
    arguments += ["--set", "batch_size=64"]
    result = train_sae(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    sae = SAE.from_pretrained(tmp_path / "sae")
    assert (sae.encoder_id, sae.encoder_revision, sae.layer, sae.tokens) == ("me/tiny", "abc", 1, "patches")
    assert sae.training_data == {"id": "noise", "split": "train", "num_images": 60}
    assert (sae.d_sae, sae.k) == (2 * store.d_in, 3)
    facts = json.loads((tmp_path / "sae" / "training.json").read_text())
    assert facts["config"]["steps"] == 12 and facts["config"]["lr"] == 1e-3
    assert facts["heldout"]["l0"] == pytest.approx(3, abs=0.02)
    assert facts["heldout"]["tokens"] == 12 * store.tokens_per_image
    assert facts["threshold"]["calibrated"] == pytest.approx(sae.threshold.item())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "learning_rate=1"], "unknown settings learning_rate"),
        (["--set", "k=2.5"], "k must be a valid integer, got 2.5"),
        (["--set", "k"], "key=value"),
        (["--set", "batch_size=100_000"], "fewer than one batch"),
        (["--activations", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(train_sae, store, tmp_path, arguments, message):
    result = train_sae("--activations", store.folder, "--output", tmp_path / "sae", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
