import dataclasses
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.recipes import (
    SECTIONS,
    ActivationsSection,
    CBSAESection,
    ChatJudgeSettings,
    EvaluationSection,
    InsertionSection,
    PruneSettings,
    read_sections,
    read_settings,
)


def test_settings_and_what_takes_precedence(tmp_path):
    (tmp_path / "a.yaml").write_text("sae: {k: 3, steps: 10}\nother: {}\n")
    assert read_settings(tmp_path / "a.yaml", "sae", ["k=5", "lr=1.5", "names=[a, b]"]) == {
        "k": 5, "steps": 10, "lr": 1.5, "names": ["a", "b"],
    }  # fmt: skip
    assert read_settings(None, "sae", ["k=5"]) == {"k": 5}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_of_windows_are_read(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("sae: {data: piñata}\r\n".encode(encoding))
    assert read_settings(tmp_path / "a.yaml", "sae", []) == {"data": "piñata"}


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
        read_settings(tmp_path / "a.yaml", "sae", overrides)
    (tmp_path / "a.yaml").write_bytes("sae: {data: piñata}".encode("cp1252"))
    with pytest.raises(ValueError, match="a.yaml is not UTF-8 text"):
        read_settings(tmp_path / "a.yaml", "sae", [])


def test_missing_and_unknown_keys_are_named(tmp_path):
    settings = {"encoder": "a", "layer": 1, "tokens": "cls", "images": "b", "split": "c", "output": "d"}
    section = ActivationsSection.from_dict(settings)
    assert section.output == Path("d") and section.dtype is None
    assert section.to_dict(defaults=False) == settings, "what a recipe says, and nothing else"
    with pytest.raises(ValueError, match="lacks encoder, layer"):
        ActivationsSection.from_dict(settings | {"encoder": None, "layer": None})
    with pytest.raises(ValueError, match=r"unknown settings layers; known are .*images.*; did you mean layer\?"):
        ActivationsSection.from_dict(settings | {"layers": 1})
    with pytest.raises(ValueError, match="lacks split"):
        ActivationsSection.from_dict(settings | {"split": None})
    assert ActivationsSection.from_dict(settings | {"split": None, "images": "m:f"}).is_function
    (tmp_path / "a.yaml").write_text(f"activations: {settings}\n")
    read = ActivationsSection.read(tmp_path / "a.yaml", ["layer=2"], output=tmp_path, encoder=None)
    assert (read.layer, read.output, read.encoder) == (2, tmp_path, "a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "1"}, "layer must be a valid integer, got '1'"),
        ({"images_args": 3}, "images_args must be a valid dictionary, got 3"),
        ({"dtype": "int8"}, "dtype must be 'float16' or 'float32', got 'int8'"),
        ({"tokens": 3, "readers": 0}, "tokens must be a valid string, got 3; readers must be greater than 0, got 0"),
    ],
)
def test_wrong_values_are_named(settings, message):
    recipe = {"encoder": "a", "layer": 1, "tokens": "cls", "images": "b", "split": "c", "output": "d"}
    with pytest.raises(ValueError, match=message):
        ActivationsSection.from_dict(recipe | settings)


def test_sections_within_sections_are_checked_too():
    section = {"llava": "a", "images": "b", "split": "c", "scores": "d", "prompts": ["e"], "output": "f", "model": "g"}
    assert InsertionSection.from_dict(section | {"judge": "m:f"}).judge == "m:f"
    assert InsertionSection.from_dict(section | {"judge": {"model": "m"}}).judge == ChatJudgeSettings(model="m")
    message = "judge lacks model; judge.modle is an unknown setting; judge must be a valid string"
    with pytest.raises(ValueError, match=message):
        InsertionSection.from_dict(section | {"judge": {"modle": "m"}})
    with pytest.raises(ValueError, match="prune takes exactly one of .*, got {'count': 3, 'share': 0.5}"):
        PruneSettings(count=3, share=0.5)


RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_hold_what_their_scripts_know(recipe):
    """Each section against the type of its script, without loading anything."""
    sections = read_sections(recipe)
    for name, settings in sections.items():
        section = SECTIONS[name].from_dict(settings)
        for key, value in settings.items():
            defaults = {field.name: field.default for field in dataclasses.fields(section)}
            written = section.to_dict()[key]
            assert written == value or key == "prune" or float(value) == written, (name, key, defaults)
    assert {"activations", "sae"} <= sections.keys()
    variants = EvaluationSection.read(recipe).variants_of(CBSAESection.read(recipe))
    assert next(iter(variants)) == "seed-0" and variants["seed-0"].replace(seed=0) == CBSAESection.read(recipe)


def test_variants_differ_in_what_they_say_and_a_wrong_one_is_named():
    recipe = next(path for path in RECIPES if path.stem == "emoji")
    base, evaluation = CBSAESection.read(recipe), EvaluationSection.read(recipe)
    variants = evaluation.variants_of(base)
    assert variants["k-10"] == base.replace(cb_k=10) and variants["seed-2"].config().seed == 2
    assert variants["share-0.3"].prune == PruneSettings(by="both", share=0.3)
    assert variants["hardly trained"].config() == base.replace(steps=1).config()
    with pytest.raises(ValueError, match="slip: unknown settings stepz"):
        evaluation.replace(variants={"slip": {"stepz": 1}}).variants_of(base)


@pytest.mark.parametrize(
    ("script", "section"),
    {
        "train_cbsae": "cbsae",
        "evaluate": "evaluate",
        "uncertainty": "scores",
        "extract_activations": "activations",
        "train_sae": "sae",
        "score_neurons": "scores",
        "sweep": "sweep",
    }.items(),
)
def test_a_recipe_without_its_section_is_explained(tmp_path, script, section):
    (tmp_path / "other.yaml").write_text("other: {}\n")
    command = typer.Typer()
    command.command()(import_module(f"training.{script}").main)
    done = CliRunner().invoke(command, ["--recipe", str(tmp_path / "other.yaml")], env={"COLUMNS": "1000"})
    assert done.exit_code == 2 and f"has no section '{section}'; it has other" in done.output
