"""From pictures to a served page by the three scripts, as a user runs them, in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from datasets import Dataset, Features, Image, Value
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import SAE, NeuronTable, Pack

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    make_hub(folder / "hub")
    pictures = Pictures(60)
    features = Features({"image": Image(), "side": Value("string"), "caption": Value("string")})
    rows = {"image": pictures["image"], "side": pictures["side"], "caption": pictures["caption"]}
    (folder / "hub" / "pictures").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "hub" / "pictures" / "train-00000-of-00001.parquet")
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    recipe = {
        "activations": {
            "encoder": "hub/encoder", "layer": 1, "tokens": "patches", "images": "hub/pictures", "split": "train",
            "dtype": "float32", "images_per_shard": 16, "output": "activations",
        },
        "sae": {
            "activations": "activations", "output": "hub/mine", "expansion": 2, "k": 3, "steps": 40, "batch_size": 32,
            "warmup_steps": 5, "heldout_fraction": 0.1, "eval_every": 20, "checkpoint_every": 20, "log_every": 10,
            "threshold_start": 5, "group_fractions": [0.25, 0.75],
        },
        "scores": {
            "model": "hub/mine", "judge": "hub/judge", "similarity": "hub/encoder", "images": "hub/pictures",
            "split": "train", "concepts": {"colours": "concepts.txt"}, "truth": {"side": "side"}, "output": "scores",
            "batch_size": 7, "top_k": 10,
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(folder, script, *arguments):
    command = [sys.executable, str(ROOT / "training" / script), "--recipe", "recipe.yaml", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


SCRIPTS = {
    "extract_activations.py": "activations",
    "train_sae.py": "sae",
    "build_pack.py": "scores",
    "score_neurons.py": "scores",
}


def test_the_scripts_make_a_model_that_can_be_looked_up(workplace):
    for script in SCRIPTS:
        done = run(workplace, script)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", "standard output is for results"
    sae = SAE.from_pretrained(workplace / "hub" / "mine")
    assert (sae.d_in, sae.d_sae, sae.k, sae.group_sizes) == (16, 32, 3, (8, 24))
    assert (sae.layer, sae.tokens, sae.encoder_id) == (1, "patches", "hub/encoder")
    told = json.loads((workplace / "hub" / "mine" / "training.json").read_text())["heldout"]
    pack = Pack.from_pretrained(workplace / "hub" / "mine")
    assert pack.info["scores"]["reconstruction"]["explained_variance"] == pytest.approx(
        told["explained_variance"], abs=0.3
    )
    name = next(row.name for row in pack.neurons if row.name)
    assert pack.find(name).matches[0].concept == name
    scored = NeuronTable.read(workplace / "scores").frame
    pd.testing.assert_frame_equal(scored, pack.neurons.frame)
    told = json.loads((workplace / "scores" / "scores.json").read_text())
    assert told["settings"]["judge"] == "hub/judge" and told["n_images"] == 60
    assert not (workplace / "scores" / "partial").exists(), "a finished run needs no checkpoint"


def test_figures_are_drawn_of_what_was_scored(workplace):
    command = [sys.executable, str(ROOT / "training" / "plots.py"), "scores", "--output", "plots", "--format", "svg"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in (workplace / "plots").iterdir()}
    assert drawn == {"coverage.svg", "monosemanticity.svg", "scores-histograms.svg", "scores-l0-map.svg"}
    assert "scores-quadrants: not drawn, the neuron table has no column steerability" in done.stderr
    done = subprocess.run([*command, "nowhere"], cwd=workplace, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0 and "Traceback" not in done.stderr and "nowhere" in done.stderr


def test_two_processes_score_as_one(workplace):
    options = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    script = [str(ROOT / "training" / "score_neurons.py"), "--recipe", "recipe.yaml", "--output", "scores-of-two"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options, *script]
    done = subprocess.run(launch, cwd=workplace, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = (NeuronTable.read(workplace / name).frame for name in ("scores", "scores-of-two"))
    pd.testing.assert_frame_equal(two, one, atol=1e-6, rtol=1e-6)
    one, two = (json.loads((workplace / n / "scores.json").read_text()) for n in ("scores", "scores-of-two"))
    assert two["coverage"] == one["coverage"] and two["l0"] == one["l0"]
    assert two["reconstruction"] == pytest.approx(one["reconstruction"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_mistakes_are_explained_without_a_traceback(workplace, script):
    done = run(workplace, script, "--set", "nonsense")
    assert done.returncode != 0 and "Traceback" not in done.stderr and "key=value" in done.stderr
    (workplace / "other.yaml").write_text("other: {}\n")
    done = run(workplace, script, "--recipe", "other.yaml")
    assert done.returncode != 0 and "Traceback" not in done.stderr and SCRIPTS[script] in done.stderr
