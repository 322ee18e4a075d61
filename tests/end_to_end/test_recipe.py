import sys
from pathlib import Path

import pytest
import yaml

from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from training.recipe import read_recipe, require_keys

sys.path.append(str(Path(__file__).parents[2] / "training"))  # where scripts find each other

import extract_activations  # noqa: E402
import insertion  # noqa: E402
import score_neurons  # noqa: E402
import train_cbsae  # noqa: E402


def test_settings_and_what_takes_precedence(tmp_path):
    (tmp_path / "a.yaml").write_text("sae: {k: 3, steps: 10}\nother: {}\n")
    assert read_recipe(tmp_path / "a.yaml", "sae", ["k=5", "lr=1.5", "names=[a, b]"]) == {
        "k": 5, "steps": 10, "lr": 1.5, "names": ["a", "b"],
    }  # fmt: skip
    assert read_recipe(None, "sae", ["k=5"]) == {"k": 5}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_of_windows_are_read(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("sae: {data: piñata}\r\n".encode(encoding))
    assert read_recipe(tmp_path / "a.yaml", "sae", []) == {"data": "piñata"}


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("other: {}", [], "no section 'sae'; it has other"),
        ("sae: {k: 3}", ["nonsense"], "key=value, got 'nonsense'"),
        ("sae: {k: c?}", [], "a.yaml is not YAML"),
        ("sae: {k: 3}", ["k={"], "--set k={ is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, content, overrides, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ValueError, match=message.replace("{", "[{]")):
        read_recipe(tmp_path / "a.yaml", "sae", overrides)
    (tmp_path / "a.yaml").write_bytes("sae: {data: piñata}".encode("cp1252"))
    with pytest.raises(ValueError, match="a.yaml is not UTF-8 text"):
        read_recipe(tmp_path / "a.yaml", "sae", [])


def test_missing_and_unknown_keys_are_named():
    require_keys({"a": 1, "b": 2}, ["a"], ["b"])
    with pytest.raises(ValueError, match="lacks a, c"):
        require_keys({"a": None}, ["a", "c"])
    with pytest.raises(ValueError, match="unknown settings d; known are a"):
        require_keys({"a": 1, "d": 1}, ["a"])


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml")), ids=str)
def test_recipes_hold_what_their_scripts_know(recipe):
    """Each section against the keys of its script, without loading anything."""
    known = {
        "activations": (extract_activations.REQUIRED, (*extract_activations.OPTIONAL, *extract_activations.EXTRACTION)),
        "scores": (score_neurons.REQUIRED, score_neurons.OPTIONAL),
        "steerability": ((), score_neurons.STEERING),
        "insertion": (insertion.REQUIRED, insertion.OPTIONAL),
    }
    sections = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for section, (required, optional) in known.items():
        if section in sections:
            require_keys(sections[section], required, optional)
    for section, config, others in (
        ("sae", SAETrainConfig, ("activations", "output")),
        ("cbsae", CBSAETrainConfig, (*train_cbsae.REQUIRED, *train_cbsae.MODEL)),
    ):
        if section in sections:
            config.from_dict({key: value for key, value in sections[section].items() if key not in others})
    assert {"activations", "sae"} <= sections.keys()
