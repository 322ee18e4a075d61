"""Which models are served to whom, and what happens where LLaVA and unCLIP cannot run."""

import copy
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from huggingface_hub.errors import HfHubHTTPError

from cbsae_hub import NeuronTable
from cbsae_hub.models import SAE
from cbsae_hub.studio.api import Api
from cbsae_hub.studio.server import generators
from cbsae_hub.studio.server.generators import Generators, Unavailable, weight_bytes
from cbsae_hub.studio.server.refusal import Refused
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.tabs.scores import _csv_link
from cbsae_hub.studio.tabs.unavailable import instead_of

HUB = Path(__file__).parents[3] / "hub"


def test_only_what_is_on_the_list_is_served(serving):
    assert list(serving.models) == ["emoji-cbsae", "emoji-sae"]
    assert serving.of("emoji-sae") is serving.of("emoji-sae")
    for bad in ("emoji-dino", str(HUB / "emoji-sae"), "../emoji-sae", "", None, 0, ["emoji-sae"], {"a": 1}):
        with pytest.raises(Refused):
            serving.of(bad)


def test_a_list_needs_models_and_each_once():
    with pytest.raises(ValueError, match="at least one"):
        Serving([])
    with pytest.raises(ValueError, match="given twice"):
        Serving([HUB / "emoji-sae", HUB / ".." / "hub" / "emoji-sae"])
    with pytest.raises(OSError):
        Serving([HUB / "emoji-llava"])


def test_an_extended_model_is_its_makers_alone(serving, shipped):
    wider = shipped.sae.with_concepts(["my own"])
    last = shipped.pack.neurons.frame.tail(1).assign(neuron=len(shipped.pack.neurons), designated="my own")
    pack = copy.copy(shipped.pack)
    pack.neurons = NeuronTable(pd.concat([shipped.pack.neurons.frame, last]))
    own = serving.keep_own(shipped.extended(wider, pack))
    assert serving.of(own.key) is own and own.own == 1 and own.label == "emoji-cbsae + 1 of yours"
    assert own.judge is shipped.judge and own.encoder is shipped.encoder
    assert own.llava.model is shipped.llava.model and own.llava.tower.sae is not shipped.llava.tower.sae
    assert serving.of("emoji-cbsae") is shipped and "my own" not in shipped.sae.concepts
    with pytest.raises(Refused):
        serving.of(own.key[:-1])


def test_parents_and_pruned_neurons(serving, shipped):
    parent = serving.of("emoji-sae")
    assert serving.parent_of(shipped) is parent and serving.parent_of(parent) is None
    ids = shipped.sae.sae_neuron_ids
    pruned = next(neuron for neuron in range(parent.sae.d_sae) if neuron not in ids)
    assert serving.pruned_from(parent, pruned) == ["emoji-cbsae"]
    assert serving.pruned_from(parent, ids[0]) == [] == serving.pruned_from(shipped, 0)


def test_both_models_share_one_llava(serving, shipped):
    other = serving.of("emoji-sae")
    assert other.llava.model is shipped.llava.model and other.llava.tower.sae is other.sae
    assert other.unclip.pipeline is shipped.unclip.pipeline


def alone(shipped, **given):
    """The shipped model with other generators."""
    other = shipped.extended(shipped.sae, shipped.pack)
    other.generators = Generators(**given)
    return other


def test_without_a_llava_the_stored_answers_are_shown(shipped):
    shown = instead_of(alone(shipped), "llava")
    assert "start it with --llava" in shown
    assert (
        "reads the encoder emoji-clip" in shown
        and "No LLaVA is known that does" in shown
        and "python app.py" not in shown
    )
    best = shipped.pack.neurons.frame.sort_values("steerability", ascending=False).iloc[0]
    assert f"“{best['said_white']}”" in shown and "set to 50" in shown
    assert instead_of(shipped, "llava") == "" == instead_of(shipped, "unclip")


def test_a_model_that_is_too_large_is_not_loaded(shipped, monkeypatch):
    monkeypatch.setattr(generators, "MAX_CPU_BYTES", 1000)
    for which in ("llava", "unclip"):
        large = alone(shipped, **{which: str(HUB / f"emoji-{which}"), "device": "cpu"})
        shown = instead_of(large, which)
        assert "cannot run without a GPU" in shown and f"--{which} " in shown
        with pytest.raises(Unavailable):
            getattr(large, which)
    on_gpu = Generators(str(HUB / "emoji-llava"), device="meta")
    on_gpu._require_room(str(HUB / "emoji-llava"), "")


def test_the_size_is_that_of_the_weights(tmp_path, monkeypatch):
    (tmp_path / "unet").mkdir()
    (tmp_path / "a.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"x" * 5)
    (tmp_path / "c.bin").write_bytes(b"x" * 100)
    assert weight_bytes(str(tmp_path)) == 15
    files = [SimpleNamespace(rfilename=name, size=7) for name in ("x/m-1.safetensors", "m-2.safetensors", "m.bin")]
    monkeypatch.setattr(generators.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    assert weight_bytes("me/large") == 14

    def unreachable(*_, **__):
        raise HfHubHTTPError("out of reach", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(generators.HfApi, "model_info", unreachable)
    assert weight_bytes("me/large") == 0


def test_what_does_not_fit_or_is_not_there_says_so(shipped, tmp_path):
    missing = alone(shipped, llava=str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match="nowhere could not be loaded"):
        _ = missing.llava
    narrow = alone(shipped, llava=str(HUB / "emoji-llava"), unclip=str(HUB / "emoji-unclip"))
    narrow.sae = SAE(64, 128, layer=4)
    for which in ("llava", "unclip"):
        with pytest.raises(Unavailable, match="width 64"):
            getattr(narrow, which)
    narrow.sae = shipped.sae  # an SAE that does not fit takes nothing from those that do
    assert narrow.llava.tower.sae is shipped.sae and narrow.unclip.tower.sae is shipped.sae


def test_models_of_two_explanations_are_served_by_the_names_of_both(tmp_path):
    for name in ("dogs", "cats"):
        shutil.copytree(HUB / "emoji-sae", tmp_path / name / "sae")
    shutil.copytree(HUB / "emoji-cbsae", tmp_path / "dogs" / "cbsae")
    both = Serving([tmp_path / "dogs" / "cbsae", tmp_path / "dogs" / "sae", tmp_path / "cats" / "sae"])
    assert list(both.models) == ["dogs/cbsae", "dogs/sae", "cats/sae"]
    for name in both.models:
        model = both.of(name)
        assert model.name == model.key == model.label == name and model.model_id == str(tmp_path / name)
    files = {re.search(r'href="([^"]+)"', _csv_link(both.of(name)))[1] for name in both.models}
    assert files == {f"download/{name.replace('/', '--')}/{name.replace('/', '-')}.csv" for name in both.models}
    assert Api(both).model_info("cats/sae")["model"] == "cats/sae"
