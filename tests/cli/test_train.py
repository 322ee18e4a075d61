import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import build, processor

from cbsae_hub import SAE
from cbsae_hub.data.extraction import extract_activations
from cbsae_hub.encoders.vision import VisionEncoder


class Pictures:
    def __len__(self):
        return 60

    def __getitem__(self, rows):
        pixels = [np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8) for i in range(60)[rows]]
        return {"image": [Image.fromarray(p) for p in pixels]}


@pytest.fixture
def store(tmp_path):
    encoder = VisionEncoder(build("CLIPVisionModel"), processor("CLIPVisionModel"), 1, "patches", "me/tiny", "abc")
    source = {"id": "noise", "split": "train"}
    return extract_activations(encoder, Pictures(), tmp_path / "store", source=source)


def test_recipe_and_overrides_train_an_sae_that_says_where_it_comes_from(cbsae, store, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sae: {k: 3, expansion: 2, steps: 999, warmup_steps: 2, lr: 1e-3, heldout_fraction: 0.2}\n")
    arguments = ["--recipe", recipe, "--activations", store.folder, "--output", tmp_path / "sae", "--set", "steps=12"]
    arguments += ["--set", "batch_size=64"]
    result = cbsae("train", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path}/sae: explained variance ") and result.stdout.count("\n") == 1
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
def test_mistakes_are_named(cbsae, store, tmp_path, arguments, message):
    result = cbsae("train", "--activations", store.folder, "--output", tmp_path / "sae", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_without_a_recipe_all_settings_may_be_set(answer, store, tmp_path):
    few = ["k=3", "expansion=2", "steps=4", "warmup_steps=2", "heldout_fraction=0.2", "batch_size=64"]
    few = [part for one in few for part in ("--set", one)]
    told = answer("train", *few, "--set", f"activations={store.folder}", "--set", f"output={tmp_path / 'sae'}")
    assert told["folder"] == str(tmp_path / "sae") and told["tokens"] > 0
    told = answer("train", *few, "--output", tmp_path / "sae", code=1)
    assert "section `sae` lacks activations: name a recipe" in told["error"]


def test_what_stops_a_training_says_how_to_go_on_with_its_own_exit_code(cbsae, answer, store, tmp_path, monkeypatch):
    given = ["train", "--activations", store.folder, "--output", tmp_path / "sae", "--set", "batch_size=64",
             "--set", "steps=9", "--set", "heldout_fraction=0.2", "--set", "warmup_steps=2"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("cbsae_hub.trainers.run.StopRequest.requested", lambda self: True)
        result = cbsae(*given)
        assert result.exit_code == 130 and result.stdout == ""
        assert "\nstopped after step 1; continue with --resume\n" in result.stderr
        told = answer(*given, "--resume", code=130)
        assert told == {"error": "stopped after step 2; continue with --resume", "type": "Interrupted"}
    assert answer(*given, code=1)["type"] == "FileExistsError"
    assert answer(*given, "--resume")["folder"] == str(tmp_path / "sae")
