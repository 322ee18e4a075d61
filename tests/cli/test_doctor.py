import json
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata

import pytest
import torch
import torchvision

pytestmark = pytest.mark.slow

Usage = namedtuple("Usage", "total used free")
GOOD = {"torch": "2.9.0", "torchvision": "0.24.0", "built_for": None, "mps": False, "gpus": []}


@pytest.fixture
def imports(monkeypatch):
    """What importing torch and torchvision leads to: ``imports(returncode, stdout, stderr)``."""

    def set_to(returncode=0, stdout=None, stderr=""):
        stdout = json.dumps(GOOD) if stdout is None else stdout
        done = subprocess.CompletedProcess([], returncode, stdout, stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)

    set_to()
    return set_to


@pytest.fixture
def checks(answer):
    def run(code=0):
        told = answer("doctor", code=code)
        assert told["ok"] == (code == 0)
        return {check["name"]: check for check in told["checks"]}

    return run


def broken_torchvision(folder, monkeypatch, line):
    """A torch that imports and a torchvision that does not come first on the path."""
    (folder / "torch.py").touch()
    (folder / "torchvision.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


def test_a_process_writes_pure_json_about_the_real_pair():
    command = [sys.executable, "-m", "cbsae_hub", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = {check["name"]: check["found"] for check in json.loads(done.stdout)["checks"]}
    assert found["torch and torchvision"] == f"{torch.__version__} and {torchvision.__version__} go together"
    assert found["python"].startswith(sys.version.split()[0])


def test_broken_pair_is_a_problem_with_advice(checks, cbsae, tmp_path, monkeypatch):
    said = "operator torchvision::nms does not exist"
    broken_torchvision(tmp_path, monkeypatch, f"raise RuntimeError({said!r})")
    found = checks(code=1)["torch and torchvision"]
    assert (found["status"], found["found"]) == ("problem", f"RuntimeError: {said}")
    assert "install both in one command" in found["advice"]


def test_advice_names_the_index_of_a_build(imports, checks, monkeypatch):
    imports(1, "", "RuntimeError: operator torchvision::nms does not exist")
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu" if name == "torch" else version(name))
    advice = checks(code=1)["torch and torchvision"]["advice"]
    assert advice.endswith("torch==2.13.0 torchvision --index-url https://download.pytorch.org/whl/cpu")


def test_process_that_dies_is_told(imports, checks):
    imports(-11, "")
    assert checks(code=1)["torch and torchvision"]["found"] == "died (-11)"


def test_gpus_and_those_that_torch_does_not_see(imports, checks, monkeypatch):
    imports(stdout=json.dumps(GOOD | {"gpus": [("H200", 2**30, 4 * 2**30)]}))
    assert checks()["GPU"]["found"] == "H200, 1.0 of 4.0 GB free"
    imports()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert checks()["GPU"]["status"] == "ok"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert checks()["GPU"]["status"] == "warning"
    assert "built for the CPU only" in checks()["GPU"]["found"]


def test_every_dependency_is_listed_with_its_version(imports, checks, monkeypatch):
    declared = ["numpy>=1.26", "torch>=99", "nothing-of-this-name>=2", 'nltk>=3.8; extra == "wordnet"',
                'pytest>=99; extra == "test"', 'colorama; sys_platform == "amiga"']  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: declared if name == "cbsae_hub" else [])
    version = metadata.version
    missing = ("nltk", "nothing-of-this-name")

    def installed(name):
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", installed)
    found = checks(code=1)
    assert (found["numpy"]["status"], found["numpy"]["found"]) == ("ok", version("numpy"))
    assert found["torch"]["status"] == "problem" and ">=99 is needed" in found["torch"]["found"]
    assert found["nothing-of-this-name"]["advice"] == "pip install 'nothing-of-this-name>=2'"
    assert found["nltk"]["status"] == "ok" and "cbsae_hub[wordnet]" in found["nltk"]["found"]
    assert not {"pytest", "colorama"} & found.keys()


def test_package_that_is_not_installed_is_a_warning(imports, checks, monkeypatch):
    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nowhere)
    assert checks()["dependencies"]["status"] == "warning"


@pytest.mark.parametrize(("free", "status", "code"), [(50, "ok", 0), (5, "warning", 0), (0.5, "problem", 1)])
def test_disk_of_the_cache(imports, checks, monkeypatch, tmp_path, free, status, code):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: Usage(0, 0, int(free * 2**30)) if folder == tmp_path else 0
    )
    assert checks(code)["cache"]["status"] == status


def test_offline_mode_and_endpoint(imports, checks, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    network = checks()["network"]
    assert network["status"] == "warning" and "(TRANSFORMERS_OFFLINE)" in network["found"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror.example")
    assert checks()["network"]["found"] == "online: https://mirror.example"


def test_token_is_never_shown(imports, cbsae, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for arguments in ([], ["--json"]):
        result = cbsae("doctor", *arguments)
        assert "a token is stored" in result.stdout and "secret" not in result.output


def test_text_lists_advice_below_the_table(imports, cbsae):
    imports(1, "", "Traceback\nRuntimeError: \x1b]0;title\x07operator is not there")
    result = cbsae("doctor")
    assert result.exit_code == 1
    assert f"{sys.prefix}" in result.stdout
    assert "\x1b]" not in result.stdout
    assert result.stdout.splitlines()[0].split() == ["status", "name", "found"]
    assert any(
        line.startswith("torch and torchvision: torch and torchvision must") for line in result.stdout.splitlines()
    )
