"""What is true of everything that is loaded from a folder or the Hub: SAE, CBSAE, Pack, and ``load``."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import constants

from cbsae_hub import CBSAE, SAE, Pack, load
from cbsae_hub.hub.files import folder_revision
from cbsae_hub.models import ConfigError, ModelFileError
from cbsae_hub.neurons.table import PackError
from cbsae_hub.publishing import plan, publish

REPO = "me/model"
HUB = Path(__file__).parents[2] / "hub"
MODEL = ("config.json", "model.safetensors")


class Kind(NamedTuple):
    read: object
    shipped: str
    files: tuple


KINDS = {
    "SAE": Kind(SAE.from_pretrained, "emoji-sae", MODEL),
    "CBSAE": Kind(CBSAE.from_pretrained, "emoji-cbsae", MODEL),
    "Pack": Kind(Pack.from_pretrained, "emoji-cbsae", ("pack.json", "neurons.parquet", "patch_maps.safetensors")),
    "load": Kind(load, "emoji-cbsae", MODEL),
}
FILES = [(name, file) for name, kind in KINDS.items() for file in kind.files]


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def folder(request, tmp_path):
    """A copy of what is shipped, of the kind of the test."""
    name = request.node.callspec.params.get("name") or request.node.callspec.params["kind"]
    return shutil.copytree(HUB / KINDS[name].shipped, tmp_path / "model", ignore=shutil.ignore_patterns("log.jsonl"))


@pytest.fixture
def commit(hub, folder, monkeypatch, tmp_path):
    """That of the folder on the Hub."""
    monkeypatch.chdir(tmp_path)  # where there is no hub/
    return publish(plan(folder, REPO)).commit


def assert_same(one, other):
    if isinstance(one, Pack):
        assert one.neurons.frame.equals(other.neurons.frame) and one.info == other.info
        return
    assert type(one) is type(other) and one.config == other.config and one.provenance == other.provenance
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def test_the_hub_gives_what_the_folder_holds(kind, hub, folder, commit, monkeypatch):
    there = kind.read(folder)
    for revision in (None, "main", commit, folder_revision(folder)):
        assert_same(kind.read(REPO, revision=revision), there)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    for revision in (None, "main", commit, folder_revision(folder)):
        assert_same(kind.read(REPO, revision=revision), there)
    assert len(hub.requests) == before


def test_a_folder_is_of_one_revision(kind, folder):
    assert_same(kind.read(folder, revision=folder_revision(folder)), kind.read(folder))
    for revision in ("main", "sha256:0123456789abcdef"):
        with pytest.raises(ModelFileError, match=f"{folder}.*{folder_revision(folder)}.*{revision}.*another model"):
            kind.read(folder, revision=revision)


def test_what_is_not_there_is_named(kind, hub, commit, monkeypatch):
    with pytest.raises(ModelFileError, match="me/nothing is no folder here, and on the Hub it does not exist or needs"):
        kind.read("me/nothing")
    with pytest.raises(ModelFileError, match="me/model has no revision 'v9' on the Hub"):
        kind.read(REPO, revision="v9")
    with pytest.raises(ModelFileError, match="'no/such/folder' is neither an existing folder nor a Hub id"):
        kind.read("no/such/folder")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match="hub/my-sea is no folder here, and .*; HF_HUB_OFFLINE is set"):
        kind.read("hub/my-sea")


@pytest.mark.parametrize("fault", ["cut", "damage"])
@pytest.mark.parametrize(("name", "file"), FILES)
def test_half_a_file_and_a_wrong_one_are_never_loaded(name, file, fault, hub, folder, commit, tmp_path):
    read = KINDS[name].read
    getattr(hub, fault)(f"GET .*{file}")
    message = {"cut": "of me/model could not be downloaded, the connection broke: try again",
               "damage": "a file of me/model arrived damaged: its hash is not the one that the Hub says"}  # fmt: skip
    for _ in range(2):
        with pytest.raises(ModelFileError, match=message[fault]):
            read(REPO)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.heal()
    assert_same(read(REPO), read(folder))


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_missing_file_is_an_error_even_beside_a_pickle(name, file, hub, folder, commit):
    (folder / file).rename(folder / "pytorch_model.bin")
    files = hub.files[REPO]["main"]
    files["pytorch_model.bin"] = files.pop(file)
    for source in (folder, REPO):
        message = "there is no SAE in|has no" if name == "load" else f"(has no|lacks) {file}"
        with pytest.raises((ModelFileError, PackError), match=message):
            KINDS[name].read(source)
    assert not any("pytorch_model" in call for call in hub.requests)


def test_what_a_newer_version_wrote_says_so(kind, folder):
    file = folder / kind.files[0]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    with pytest.raises((ConfigError, PackError), match="schema version 99.*install"):
        kind.read(folder)
