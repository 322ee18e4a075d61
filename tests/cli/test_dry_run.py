import pytest
import yaml

from cbsae_hub.pipeline import costs
from cbsae_hub.pipeline.recipe import shipped


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A file with a recipe for a machine that has space for everything."""
    monkeypatch.setattr(costs, "free_bytes", lambda folder: 10**15)
    monkeypatch.setattr(costs, "device_memory", lambda: 10**13)
    monkeypatch.setattr(costs, "host_memory", lambda: 10**13)
    (tmp_path / "recipe.yaml").write_text(shipped()["unclip-2-1"])
    return tmp_path / "recipe.yaml"


def test_what_is_right_is_a_table(cbsae, answer, recipe):
    result = cbsae("dry-run", "--recipe", recipe)
    assert result.exit_code == 0 and result.stdout.startswith("| step | shapes | disk | memory |")
    told = answer("dry-run", "--recipe", recipe)
    assert told["problems"] == [] and told["steps"][1]["disk"] == {"store": 1_281_167 * 1024 * 2}


def test_the_exit_code_and_the_lines_of_problems(cbsae, answer, recipe):
    sections = yaml.safe_load(recipe.read_text())
    sections["sae"]["k"], sections["cbsae"]["lr"] = 100_000, -1
    recipe.write_text(yaml.safe_dump(sections))
    result = cbsae("dry-run", "--recipe", recipe)
    assert result.exit_code == 1 and result.stdout.startswith("| step | shapes | disk | memory |")
    wrong = [line for line in result.stderr.splitlines() if line.startswith("wrong: ")]
    assert any("sae: k 100000" in line for line in wrong) and any("cbsae: lr must be" in line for line in wrong)
    assert len(answer("dry-run", "--recipe", recipe, code=1)["problems"]) == len(wrong)
    recipe.write_text("sae: [")
    assert "is not YAML" in answer("dry-run", "--recipe", recipe, code=1)["error"]
