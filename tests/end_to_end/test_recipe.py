import pytest

from training.recipe import read_recipe, require_keys


def test_settings_and_what_takes_precedence(tmp_path):
    (tmp_path / "a.yaml").write_text("sae: {k: 3, steps: 10}\nother: {}\n")
    assert read_recipe(tmp_path / "a.yaml", "sae", ["k=5", "lr=1.5", "names=[a, b]"]) == {
        "k": 5, "steps": 10, "lr": 1.5, "names": ["a", "b"],
    }  # fmt: skip
    assert read_recipe(None, "sae", ["k=5"]) == {"k": 5}


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


def test_missing_and_unknown_keys_are_named():
    require_keys({"a": 1, "b": 2}, ["a"], ["b"])
    with pytest.raises(ValueError, match="lacks a, c"):
        require_keys({"a": None}, ["a", "c"])
    with pytest.raises(ValueError, match="unknown settings d; known are a"):
        require_keys({"a": 1, "d": 1}, ["a"])
