"""The scripts of the steps are the commands of ``cbsae``."""

from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from cbsae_hub.cli.app import app

SCRIPTS = {
    "extract_activations": ("extract", "activations"),
    "train_sae": ("train", "sae"),
    "score_neurons": ("score", "scores"),
    "train_cbsae": ("bottleneck", "cbsae"),
    "evaluate": ("evaluate", "evaluate"),
    "suppression": ("suppress", "suppression"),
    "dry_run": ("dry-run", None),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_a_command(script):
    name, _ = SCRIPTS[script]
    commands = {one.callback.__name__.replace("_", "-"): one.callback for one in app.registered_commands}
    assert import_module(f"training.{script}").main is commands[name]


@pytest.mark.parametrize(
    ("script", "section"),
    [(name, one[1]) for name, one in SCRIPTS.items() if one[1]]
    + [("uncertainty", "scores"), *((name, name) for name in ("sweep", "layers", "sanity", "names"))],
)
def test_a_recipe_without_its_section_is_explained(tmp_path, script, section):
    (tmp_path / "other.yaml").write_text("other: {}\n")
    command = typer.Typer()
    command.command()(import_module(f"training.{script}").main)
    done = CliRunner().invoke(command, ["--recipe", str(tmp_path / "other.yaml")], env={"COLUMNS": "1000"})
    assert done.exit_code in (1, 2) and f"has no section '{section}'; it has other" in done.output
