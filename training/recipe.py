"""Recipes: one YAML file per model, with one flat section per script."""

from pathlib import Path
from typing import Any

import yaml


def read_recipe(path: Path | None, section: str, overrides: list[str]) -> dict[str, Any]:
    """Settings of a script.

    Args:
        path: A recipe, or None for overrides only.
        section: The script's section: "activations", "sae", "pack", ...
        overrides: ``key=value``, the value in YAML, which take precedence.

    Raises:
        ValueError: If the recipe lacks the section, or an override is not of that form.
    """
    settings = {}
    if path is not None:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(recipe.get(section), dict):
            raise ValueError(f"{path} has no section {section!r}; it has {', '.join(map(str, recipe))}")
        settings = dict(recipe[section])
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, got {override!r}")
        settings[key.strip()] = yaml.safe_load(value)
    return settings
