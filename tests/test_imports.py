"""What is imported when: benchmarks/imports.py has the seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import run_program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OPTIONAL = "gradio", "diffusers", "open_clip", "datasets", "sentence_transformers"
CORE = """
import numpy, torch
from cbsae_hub import CBSAE, SAE, ConceptSet, Edit, NeuronTable, Pack, Steering, VisionEncoder, load
from cbsae_hub.encoders import ResidualSite
from cbsae_hub.neurons.search import ConceptIndex

sae = SAE.from_pretrained("hub/emoji-sae")
latents = sae.encode(torch.randn(2, 3, sae.d_in))
assert sae.decode(latents).shape == (2, 3, sae.d_in) and isinstance(load("hub/emoji-cbsae"), CBSAE)
pack = Pack.from_pretrained("hub/emoji-cbsae")
neuron = pack.find("pizza").matches[0].neuron
encoder = VisionEncoder.from_pretrained("hub/emoji-clip", layer=3)
with encoder.site.edit(lambda activations: activations / 2):
    encoder([pack.examples(neuron)[0].image])
"""


def loaded_by(code, *of):
    """Which of these modules the code imports, in a process of its own."""
    code = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {of} if name in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("code", "light_of"),
    [
        ("import cbsae_hub", ("torch", "numpy", "pandas", "transformers", "gradio", "huggingface_hub")),
        ("from cbsae_hub import SAE", ("torchvision", "scipy", "pandas", "transformers", "datasets", "matplotlib")),
        ("from cbsae_hub import Pack, NeuronTable", ("torch", "scipy", "transformers", "datasets")),
        ("import cbsae_hub.steering.llava", (*OPTIONAL, "torchmetrics", "matplotlib")),
        ("import cbsae_hub.trainers.sae.trainer", (*OPTIONAL, "torchvision", "transformers", "matplotlib")),
        ("import cbsae_hub.scoring.scorer", ("gradio", "diffusers", "open_clip", "torchmetrics", "matplotlib", "timm")),
    ],
)
def test_an_import_brings_nothing_heavy_that_it_does_not_need(code, light_of):
    assert loaded_by(code, *light_of) == []


def test_find_imports_no_torch():
    code = "from cbsae_hub.cli.app import app\napp(['find', 'hub/emoji-cbsae', 'pizza'], standalone_mode=False)"
    assert loaded_by(code, "torch", "scipy", "datasets") == []


def block(*libraries):
    """Code that forgets this package, if it is imported, and after which none of the libraries can be."""
    return f"""import sys
for name in list(sys.modules):
    if name.split(".")[0] in {("cbsae_hub", *libraries)}:
        del sys.modules[name]
for name in {libraries}:
    sys.modules[name] = None
"""


def test_the_core_runs_where_what_is_optional_is_absent():
    run = subprocess.run([sys.executable, "-c", block(*OPTIONAL) + CORE], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("library", "code", "sentence"),
    [
        ("diffusers", "from cbsae_hub.steering import UnclipSteerer", "diffusers is not installed"),
        ("gradio", "from cbsae_hub.studio import build", "gradio is not installed"),
        ("datasets", "from cbsae_hub.data.images import load_images", "datasets is not installed"),
        (
            "open_clip",
            "from cbsae_hub.encoders import ClipLike; ClipLike.from_pretrained('hub/emoji-judge')",
            "open_clip is not installed",
        ),
        (
            "sentence_transformers",
            "from cbsae_hub.encoders.sentences import Sentences; Sentences.from_pretrained('all-MiniLM-L6-v2')",
            "sentence_transformers is not installed",
        ),
    ],
)
def test_what_needs_a_library_that_is_absent_says_so(library, code, sentence, tmp_path):
    (tmp_path / "program.py").write_text(block(library) + code)
    run = run_program(tmp_path / "program.py", cwd=ROOT)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1 and last.startswith("ImportError: ") and sentence in last, run.stderr
    assert "pip install" in last
