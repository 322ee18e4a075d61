"""Recipes: one YAML file per model, with one flat section per script."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from cbsae_hub.hub.files import read_text


def read_recipe(path: Path | None, section: str, overrides: list[str]) -> dict[str, Any]:
    """Settings of a script.

    Args:
        path: A recipe, or None for overrides only.
        section: The script's section: "activations", "sae", "pack", ...
        overrides: ``key=value``, the value in YAML, which take precedence.

    Raises:
        ValueError: If the recipe is not YAML or lacks the section, or an override is not of that form.
    """
    settings = {}
    if path is not None:
        recipe = _parse(read_text(path), str(path)) or {}
        if not isinstance(recipe.get(section), dict):
            raise ValueError(f"{path} has no section {section!r}; it has {', '.join(map(str, recipe))}")
        settings = dict(recipe[section])
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, got {override!r}")
        settings[key.strip()] = _parse(value, f"--set {override}")
    return settings


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from error


def function_of(source: str) -> Callable[..., Any]:
    """A function of this checkout, of its ``module:function``.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If it has no such function.
        ValueError: If the text is not of that form.
    """
    module, _, function = source.partition(":")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    return getattr(import_module(module), function)


def require_keys(settings: dict[str, Any], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Compares a section's keys with those that its script knows.

    Raises:
        ValueError: Names what is missing, or else what is unknown, a slip of the pen perhaps.
    """
    if missing := [key for key in required if settings.get(key) is None]:
        raise ValueError(f"the recipe lacks {', '.join(missing)}")
    if unknown := [str(key) for key in settings if key not in (*required, *optional)]:
        raise ValueError(f"unknown settings {', '.join(unknown)}; known are {', '.join((*required, *optional))}")
