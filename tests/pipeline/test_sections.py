import dataclasses
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from cbsae_hub.pipeline.recipe import load_function, read_sections, read_settings, shipped
from cbsae_hub.pipeline.sections import (
    SECTIONS,
    ActivationsSection,
    CBSAESection,
    ChatJudgeSettings,
    EvaluationSection,
    InsertionSection,
    LayersSection,
    PruneSettings,
    SAESection,
    ScoresSection,
    SteerabilitySection,
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
        ({"layer": "1"}, "layer must be a valid integer or a valid tuple, got '1'"),
        ({"images_args": 3}, "images_args must be a valid dictionary, got 3"),
        ({"dtype": "int8"}, "dtype must be 'float16' or 'float32', got 'int8'"),
        ({"layer": []}, "layer and tokens must not be empty lists"),
        (
            {"encoder": {"model": "a", "tower": "text", "layer": [1, 2]}, "layer": None, "tokens": None},
            "a list of layers or tokens is of a vision encoder",
        ),
        (
            {"tokens": 3, "readers": 0},
            "tokens must be a valid string or a valid tuple, got 3; readers must be greater than 0, got 0",
        ),
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


SHIPPED = Path(str(resources.files("cbsae_hub.pipeline").joinpath("recipes")))
EMOJI = Path(__file__).parents[2] / "training" / "recipes"
RECIPES = sorted([*SHIPPED.glob("*.yaml"), *EMOJI.glob("*.yaml")])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_hold_what_their_scripts_know(recipe):
    """Each section against the type of its script, without loading anything."""
    sections = read_sections(recipe)
    for name, settings in sections.items():
        section = SECTIONS[name].from_dict(settings)
        for key, value in settings.items():
            defaults = {field.name: field.default for field in dataclasses.fields(section)}
            written = section.to_dict()[key]
            if key == "encoder" and isinstance(value, dict):  # the others have their defaults
                written = {inner: written[inner] for inner in value}
            assert written == value or key in ("prune", "sae_images") or float(value) == written, (name, key, defaults)
    studies = ({"layers"}, {"suppression"}, {recipe.stem.partition("-")[0]})
    assert {"activations", "sae"} <= sections.keys() or sections.keys() in studies
    if "layers" in sections:
        assert set(LayersSection.read(recipe).configs()) == {"vanilla", "topk", "matryoshka"}
    if "evaluate" not in sections:
        return
    variants = EvaluationSection.read(recipe).variants_of(CBSAESection.read(recipe))
    assert next(iter(variants)) == "seed-0" and variants["seed-0"].replace(seed=0) == CBSAESection.read(recipe)


def test_variants_differ_in_what_they_say_and_a_wrong_one_is_named():
    recipe = EMOJI / "emoji.yaml"
    base, evaluation = CBSAESection.read(recipe), EvaluationSection.read(recipe)
    variants = evaluation.variants_of(base)
    assert variants["k-10"] == base.replace(cb_k=10) and variants["seed-2"].config().seed == 2
    assert variants["share-0.3"].prune == PruneSettings(by="both", share=0.3)
    assert variants["hardly trained"].config() == base.replace(steps=1).config()
    with pytest.raises(ValueError, match="slip: unknown settings stepz"):
        evaluation.replace(variants={"slip": {"stepz": 1}}).variants_of(base)


def test_keys_may_say_whose_they_are_and_what_is_nobodys_is_refused():
    among = ("steerability", "scores")
    overrides = ["alpha=20", "scores.model=a", "scores.judge=b", "scores.images=c", "scores.split=d",
                 "scores.concepts={e: f}", "steerability.llava=g"]  # fmt: skip
    steering = SteerabilitySection.read(None, overrides, among=among)
    assert (steering.alpha, steering.llava) == (20, "g")
    scores = ScoresSection.read(None, overrides, among=among)
    assert (scores.model, scores.concepts) == ("a", {"e": "f"})
    with pytest.raises(ValueError, match="no section sae in what is read here: steerability, scores"):
        ScoresSection.read(None, ["sae.k=3"], among=among)
    with pytest.raises(ValueError, match=r"--set scores\.split=\.\.\."):
        ScoresSection.read(None, [one for one in overrides if "split" not in one], among=among)


def test_without_a_recipe_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"section `sae` lacks activations, output: .* --set activations=\.\.\."):
        SAESection.read(None, ["k=3"])
    with pytest.raises(ValueError, match="section `activations` lacks encoder, layer, tokens, output, split"):
        ActivationsSection.read(None, ["images=a"])
    assert SAESection.read(None, ["k=3"], activations=Path("a"), output=Path("b")).k == 3


def test_a_recipe_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no recipe .*none.yaml; `cbsae recipe NAME` .*own-encoder"):
        read_sections(tmp_path / "none.yaml")


def test_functions_are_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "pictures_of_mine.py").write_text("def make():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert load_function("pictures_of_mine:make")() == 3


# ------------------------------------------------------------------------------- recipes that come with the package

KEY = re.compile(r"^( *)#?(\w[\w.-]*):(?: |$)")


def keys(text, uncomment=True):
    """Section and key of each line that is one, commented out or not, at the depth of settings or below `prune`."""
    section = inner = None
    for line in text.splitlines():
        found = KEY.match(line)
        if not found or (not uncomment and line.lstrip().startswith("#")):
            continue
        depth, name = len(found[1]), found[2]
        if depth == 0:
            section, inner = name, None
        elif depth == 2:
            inner = name
            yield section, name, line
        elif inner == "prune":
            yield "prune", name, line


def uncommented(text):
    return "\n".join(re.sub(r"^( *)#(?=\w[\w.-]*:(?: |$))", r"\1", line) for line in text.splitlines())


def test_the_recipe_for_an_encoder_of_ones_own_has_every_setting_and_no_other():
    text = shipped()["own-encoder"]
    found = [(section, name) for section, name, _ in keys(text)]
    assert len(set(found)) == len(found)
    known = {(name, one.name) for name, kind in SECTIONS.items() for one in dataclasses.fields(kind)}
    known |= {("prune", one.name) for one in dataclasses.fields(PruneSettings)}
    assert set(found) == known


def test_what_is_commented_out_can_be_taken_in():
    sections = yaml.safe_load(uncommented(shipped()["own-encoder"]))
    assert sections.keys() == SECTIONS.keys()
    del sections["cbsae"]["prune"]["count"], sections["cbsae"]["prune"]["threshold"]  # exactly one of three
    for name, settings in sections.items():
        SECTIONS[name].from_dict(settings)


def same(default, value):
    """As YAML and as Python have it."""
    return (list(default) if isinstance(default, tuple) else default) == value


def test_a_commented_setting_shows_its_default():
    """But for those whose comment tells the default, or whose default is that of a function."""
    text = shipped()["own-encoder"]
    sections = yaml.safe_load(uncommented(text))
    kinds = {**SECTIONS, "prune": PruneSettings}
    sections["prune"] = sections["cbsae"]["prune"]
    compared = 0
    for section, name, line in keys(text):
        (one,) = [each for each in dataclasses.fields(kinds[section]) if each.name == name]
        default = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
        if not line.lstrip().startswith("#") or default in (dataclasses.MISSING, None) or "default " in line:
            continue
        assert same(default, sections[section][name]) or float(sections[section][name]) == default, (section, name)
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("name", shipped())
def test_every_setting_of_a_shipped_recipe_is_explained(name):
    for section, key, line in keys(shipped()[name]):
        assert "# " in line.lstrip("# "), (section, key)
    assert "emoji" not in shipped()[name].lower(), "the package knows nothing of Emoji World"
