"""What a newcomer meets first: the import, the requirements of a Space, the size of what is shipped."""

import subprocess
import sys
from pathlib import Path

import pytest

import cbsae_hub

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parents[1]


def test_public_names_are_what_the_modules_define():
    for name in cbsae_hub.__all__:
        value = getattr(cbsae_hub, name)
        assert name == "__version__" or value.__name__ == name


def test_unknown_public_name_is_named():
    with pytest.raises(AttributeError, match="Nonsense"):
        cbsae_hub.Nonsense  # noqa: B018


def test_import_loads_no_heavy_library():
    code = "import sys, cbsae_hub; print([m for m in ('torch', 'gradio', 'transformers') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


def test_requirements_of_a_space_are_the_packages():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == declared


def test_shipped_files_stay_small_and_are_never_pickles():
    files = [path for path in (ROOT / "hub").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 80 * 2**20
    data = {".json", ".jsonl", ".safetensors", ".parquet", ".webp"}
    assert {path.suffix for path in files} <= {*data, ".md", ".txt", ".jinja", ".png"}


def test_package_does_not_know_emoji_world():
    for path in (ROOT / "cbsae_hub").rglob("*.py"):
        assert "emoji" not in path.read_text(encoding="utf-8").lower(), path
