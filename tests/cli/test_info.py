import json
import shutil
from pathlib import Path

import pytest
from known_words import pack_of

from cbsae_hub import CBSAE, SAE
from cbsae_hub.models import folder_revision

HUB = Path(__file__).parents[2] / "hub"


@pytest.mark.parametrize(("model", "cls"), [("emoji-sae", SAE), ("emoji-cbsae", CBSAE)])
def test_facts_are_those_of_the_loaded_model(answer, monkeypatch, model, cls):
    loaded = cls.from_pretrained(HUB / model)
    monkeypatch.setattr("cbsae_hub.models.base.read_weights", None)  # it must do without the weights
    told = answer("info", f"hub/{model}")
    assert told["class"] == cls.__name__
    assert told["neurons"] == loaded.d_latent
    assert told["revision"] == folder_revision(HUB / model)
    for name in (
        "d_in",
        "d_sae",
        "k",
        "activation",
        "encoder_id",
        "encoder_revision",
        "layer",
        "tokens",
        "norm_factor",
    ):
        assert told[name] == getattr(loaded, name), name
    assert told["concepts"] == list(getattr(loaded, "concepts", []))
    assert told["heldout"] == json.loads((HUB / model / "training.json").read_text())["heldout"]


def test_pack_and_evaluation_are_told(answer):
    told = answer("info", "hub/emoji-cbsae")
    info = json.loads((HUB / "emoji-cbsae" / "pack.json").read_text())
    assert told["pack"]["scores"] == info["scores"]
    assert told["pack"]["judge"] == info["judge"]
    assert told["pack"]["concepts"]["n"] == len(info["concepts"]["names"])
    named = int(pack_of().neurons.frame["name"].notna().sum())
    assert (told["pack"]["named"], told["pack"]["stale"]) == (named, False)
    tables = json.loads((HUB / "emoji-cbsae" / "evaluation.json").read_text())["tables"]
    assert told["evaluation"] == {name: tables[name] for name in ("SAE and CB-SAE", "parts")}


def test_text_has_the_figures(cbsae):
    text = cbsae("info", "hub/emoji-cbsae").stdout
    facts = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)
    assert facts["size"].strip() == "1,257 neurons on 128 dimensions: 1,229 of its parent and 28 concepts"
    assert facts["reads"].strip() == "layer 4, tokens: patches"
    pack, evaluation = (
        json.loads((HUB / "emoji-cbsae" / f"{name}.json").read_text()) for name in ("pack", "evaluation")
    )
    explained = pack["scores"]["reconstruction"]["explained_variance"]
    assert f"explained_variance {explained:.3f}" in facts["reconstruction"]
    of_sae, of_cb, _ = (f"{row['explained variance']:.3f}" for row in evaluation["tables"]["SAE and CB-SAE"])
    assert facts["explained variance"].split()[:2] == [of_sae, of_cb]


def test_model_without_a_pack_and_with_results_of_other_weights(answer, cbsae, tmp_path):
    for file in ("evaluation.json", "training.json"):
        shutil.copyfile(HUB / "emoji-cbsae" / file, tmp_path / file)
    cb = CBSAE.from_pretrained(HUB / "emoji-cbsae")
    cb.W_dec_cb.data += 1
    cb.save_pretrained(tmp_path)
    told = answer("info", tmp_path)
    assert (told["pack"], told["heldout"], told["evaluation"]) == (None, None, {})
    assert "of other weights" in cbsae("info", tmp_path).stderr
    assert "`cbsae pack` builds one" in cbsae("info", tmp_path).stdout
    told = {"revision": folder_revision(tmp_path), "tables": [1, 2]}
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    assert "evaluation.json of" in answer("info", tmp_path, code=1)["error"]


def test_pack_of_other_weights_is_told(answer, cbsae, tmp_path):
    shutil.copytree(HUB / "emoji-sae", tmp_path / "sae")
    sae = SAE.from_pretrained(tmp_path / "sae")
    sae.b_dec.data += 1
    sae.save_pretrained(tmp_path / "sae")
    assert answer("info", tmp_path / "sae")["pack"]["stale"]
    assert "OF OTHER WEIGHTS" in cbsae("info", tmp_path / "sae").stdout


def test_revision_of_a_folder_and_half_a_model_are_told(answer, tmp_path):
    for command in (["info"], ["find", "zebra"], ["inspect", "white"]):
        error = answer(command[0], "hub/emoji-sae", *command[1:], "--revision", "v9", code=1)["error"]
        assert "is at revision sha256:dde1a73a0bf2b1b2, not at 'v9'" in error
    assert answer("info", "hub/emoji-sae", "--revision", "sha256:dde1a73a0bf2b1b2")["class"] == "SAE"
    shutil.copyfile(HUB / "emoji-sae" / "config.json", tmp_path / "config.json")
    assert "has no model.safetensors. Was its saving interrupted?" in answer("info", tmp_path, code=1)["error"]


def test_what_is_no_model_is_said(cbsae, tmp_path):
    (tmp_path / "config.json").write_text('{"model_class": "SAE", "schema_version": 1, "d_in": "many", "d_sae": 3}')
    (tmp_path / "model.safetensors").touch()
    for model, said in ((tmp_path, "d_in"), ("hub/emoji-clip", "config.json"), ("nobody/nothing", "nobody/nothing")):
        result = cbsae("info", model)
        assert (result.exit_code, result.stdout) == (1, "")
        assert said in result.stderr
