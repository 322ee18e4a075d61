"""Runs ``cbsae`` in this process, from the repository root."""

import json
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cbsae_hub import Pack
from cbsae_hub.cli.app import app

SHIPPED = ("hub/emoji-sae", "hub/emoji-cbsae")
ROOT = Path(__file__).parents[2]


read_pack = cache(Pack.from_pretrained)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where paths of models are as people give them; packs that are shipped are read once."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    real = Pack.from_pretrained

    def once(model, revision=None):
        return read_pack(model) if str(model) in SHIPPED and revision is None else real(model, revision)

    monkeypatch.setattr(Pack, "from_pretrained", once)


@pytest.fixture
def cbsae():
    """``cbsae(*arguments)``: exit code, stdout, stderr."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def answer(cbsae):
    """The data that a command writes with ``--json``; it must have the exit code."""

    def run(*arguments, code=0):
        result = cbsae(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def pack():
    return Pack.from_pretrained(ROOT / "hub" / "emoji-sae")


@pytest.fixture(scope="session")
def picture(pack, tmp_path_factory):
    """A file of one of the pack's pictures."""
    file = tmp_path_factory.mktemp("pictures") / "one.png"
    pack.image(pack.image_ids()[3]).save(file)
    return file
