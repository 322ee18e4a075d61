"""The wheel: what is in it, and that it works where nothing else of this project is."""

import json
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from code_blocks import PROJECT
from empty_environment import empty_environment, variables
from known_words import SAE_NAME, strong_word
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workplace import ROOT

from cbsae_hub import __version__

SMOKE = """
import json, sys
from importlib.metadata import version
from pathlib import Path

import cbsae_hub
assert not any(name in sys.modules for name in ("torch", "gradio", "transformers"))
home = Path(cbsae_hub.__file__).parent
assert version("cbsae_hub") == cbsae_hub.__version__ and (home / "py.typed").is_file()

import torch
from cbsae_hub import CBSAE, SAE, Edit, Pack, Steering
from cbsae_hub.steering import apply

sae = SAE(d_in=8, d_sae=32, activation="topk", k=4, seed=0)
sae.save_pretrained("sae")
again, x = SAE.from_pretrained("sae"), torch.randn(3, 5, 8)
assert again.encode(x).equal(sae.encode(x)) and Path("sae/README.md").is_file()
CBSAE.from_sae(again, range(16), ["pizza"], seed=0).save_pretrained("cbsae")
assert CBSAE.from_pretrained("cbsae").neuron_names[-1] == "pizza"
assert apply(Steering([Edit(3, 5.0)]), x, again).shape == x.shape

pack = Pack.from_pretrained("emoji-sae")
assert pack.find(WORD).verdict == "strong" and pack.examples(0) is not None

from typer.testing import CliRunner
from cbsae_hub.cli.app import app

for step in ("train", "score", "bottleneck"):  # what is missing is said in a sentence
    done = CliRunner().invoke(app, [step, "--recipe", "my.yaml", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout)["error"], (step, done.output)
print(json.dumps({"home": str(home), "path": sys.path}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


def test_wheel_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"cbsae_hub-{__version__}-py3-none-any.whl"
    found = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "cbsae_hub").rglob("*") if path.is_file()}
    package = {path for path in package if "__pycache__" not in path}
    needed = {"py.typed", "cards/card.md.jinja", "data/common_concepts.txt"}
    needed |= {"pipeline/recipes/own-encoder.yaml", "pipeline/recipes/llava-1.5-7b.yaml"}
    needed |= {"studio/view/static/page.css", "studio/view/templates/pieces.html"}
    assert {f"cbsae_hub/{name}" for name in needed} <= package
    assert {path for path in found if ".dist-info/" not in path} == package
    assert any(path.endswith(".dist-info/licenses/LICENSE") for path in found)


def normalised(requirements):
    return [(canonicalize_name(need.name), need.marker, need.specifier) for need in map(Requirement, requirements)]


def test_wheel_says_what_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    said = Parser().parsestr(archive.read(f"cbsae_hub-{__version__}.dist-info/METADATA").decode())
    needed, declared = map(normalised, (said.get_all("Requires-Dist"), PROJECT["dependencies"]))
    assert {need for need in needed if "extra" not in str(need[1])} == set(declared)
    assert said["License-Expression"] == "MIT" and said["Requires-Python"] == ">=3.10"


@pytest.mark.slow
def test_wheel_works_where_it_is_installed(wheel, tmp_path):
    python = empty_environment(tmp_path / "venv")
    empty, environment = tmp_path / "empty", variables(tmp_path)
    shutil.copytree(ROOT / "hub" / "emoji-sae", empty / "emoji-sae")

    def run(*command):
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Elsewhere this package may be installed, editable: that is no reason to leave it out here.
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--ignore-installed", wheel)
    for name in PROJECT.get("scripts", {}):
        assert name in run(python.parent / name, "--help")
    recipe = run(python.parent / "cbsae", "recipe", "own-encoder")
    assert recipe == (ROOT / "cbsae_hub" / "pipeline" / "recipes" / "own-encoder.yaml").read_text(encoding="utf-8")
    (empty / "my.yaml").write_text(recipe)
    said = run(python, "-c", SMOKE.replace("WORD", repr(strong_word(SAE_NAME))))
    assert str(tmp_path / "venv") in said and f'"{ROOT}"' not in said
    extract = [python.parent / "cbsae", "extract", "--recipe", "my.yaml", "--json"]
    done = subprocess.run(extract, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and json.loads(done.stdout)["error"], done.stdout + done.stderr
