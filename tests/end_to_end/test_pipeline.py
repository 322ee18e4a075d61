"""From pictures to a served page by the three scripts, as a user runs them, in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, Features, Image, Value
from small_hub import CONCEPTS, Pictures, make_hub

from cbsae_hub import SAE, Pack

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
        "pack": {
            "model": "hub/mine", "judge": "hub/judge", "images": "hub/pictures", "split": "train",
            "concepts": "concepts.txt", "truth_columns": ["side"], "alt_column": "caption",
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(folder, script, *arguments):
    command = [sys.executable, str(ROOT / "training" / script), "--recipe", "recipe.yaml", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def test_three_scripts_make_a_model_that_can_be_looked_up(workplace):
    for script in ("extract_activations.py", "train_sae.py", "build_pack.py"):
        done = run(workplace, script)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", "standard output is for results"
    sae = SAE.from_pretrained(workplace / "hub" / "mine")
    assert (sae.d_in, sae.d_sae, sae.k, sae.group_sizes) == (16, 32, 3, (8, 24))
    assert (sae.layer, sae.tokens, sae.encoder_id) == (1, "patches", "hub/encoder")
    told = json.loads((workplace / "hub" / "mine" / "training.json").read_text())["heldout"]
    pack = Pack.from_pretrained(workplace / "hub" / "mine")
    assert pack.info["metrics"]["explained_variance"] == pytest.approx(told["explained_variance"], abs=0.3)
    name = next(row.name for row in pack.neurons if row.name)
    assert pack.find(name).matches[0].concept == name


@pytest.mark.parametrize("script", ["extract_activations.py", "train_sae.py", "build_pack.py"])
def test_mistakes_are_explained_without_a_traceback(workplace, script):
    done = run(workplace, script, "--set", "nonsense")
    assert done.returncode != 0 and "Traceback" not in done.stderr and "key=value" in done.stderr
    section = {"extract_activations.py": "activations", "train_sae.py": "sae", "build_pack.py": "pack"}[script]
    (workplace / "other.yaml").write_text("other: {}\n")
    done = run(workplace, script, "--recipe", "other.yaml")
    assert done.returncode != 0 and "Traceback" not in done.stderr and section in done.stderr
