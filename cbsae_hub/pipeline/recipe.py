"""Recipes: one YAML file per model, with one flat section per step; a section is a dataclass of settings."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any, ClassVar

import yaml
from typing_extensions import Self

from cbsae_hub.hub.files import read_text
from cbsae_hub.trainers.settings import Settings


class Section(Settings):
    """A section of a recipe; ``section``, an argument of its class, is its name there."""

    section: ClassVar[str]

    def __init_subclass__(cls, section: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.section = section

    @classmethod
    def read(
        cls, recipe: Path | None, overrides: Sequence[str] | None = None, *, among: Sequence[str] = (), **options: Any
    ) -> Self:
        """Reads the section from a recipe; what is set by hand takes precedence.

        Args:
            recipe: The file; None if all settings are set by hand.
            overrides: ``key=value``, in YAML, see :func:`read_settings`.
            among: See :func:`read_settings`.
            options: Settings that take precedence over both, unless they are None.

        Raises:
            ValueError: If the recipe is not YAML or lacks the section, an override is not of that form, or a setting is
                missing, unknown or out of range.
            OSError: If there is no such recipe.
        """
        settings = read_settings(recipe, cls.section, overrides or (), among)
        settings |= {name: value for name, value in options.items() if value is not None}
        if recipe is None and (missing := cls.lacking(settings)):
            prefix = f"{cls.section}." if cls.section in among[1:] else ""
            raise ValueError(
                f"section `{cls.section}` lacks {', '.join(missing)}: name a recipe that has it, --recipe FILE (`cbsae "
                f"recipe own-encoder > FILE` writes one), or set each of them, --set {prefix}{missing[0]}=..."
            )
        return cls.from_dict(settings)

    @classmethod
    def read_or_default(cls, recipe: Path | None, overrides: Sequence[str] | None = None, **options: Any) -> Self:
        """Does as :meth:`read`; where the recipe has no such section, the defaults."""
        has_section = recipe is not None and cls.section in read_sections(recipe)
        return cls.read(recipe if has_section else None, overrides, **options)

    def chosen(self, *names: str) -> dict[str, Any]:
        """Those of the named settings that are not None, as arguments of what has the defaults of the others."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def read_settings(
    recipe: Path | None, section: str, overrides: Sequence[str], among: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads a section, unchecked.

    Args:
        recipe: The file; None for what the overrides say alone.
        section: Its name.
        overrides: ``key=value``, in YAML. A key may say which section's it is, ``cbsae.steps``.
        among: All sections that are read with these overrides; the first is that of keys that do not say it. Default
            this one alone.

    Raises:
        ValueError: See :meth:`Section.read`.
        OSError: If there is no such recipe.
    """
    among = among or (section,)
    settings: dict[str, Any] = {}
    if recipe is not None:
        sections = read_sections(recipe)
        if not isinstance(sections.get(section), dict):
            raise ValueError(f"{recipe} has no section {section!r}; it has {', '.join(map(str, sections))}")
        settings = dict(sections[section])
    for override in overrides:
        key, equals, value = override.partition("=")
        place, _, name = key.strip().rpartition(".")
        if not equals or not name:
            raise ValueError(f"--set takes key=value, got {override!r}")
        if place and place not in among:
            raise ValueError(f"--set {override}: there is no section {place} in what is read here: {', '.join(among)}")
        if (place or among[0]) == section:
            settings[name] = _parse(value, f"--set {override}")
    return settings


def read_sections(recipe: Path) -> dict[str, Any]:
    """Reads all sections of a recipe, unchecked.

    Raises:
        ValueError: If the file is not YAML of sections.
        OSError: If there is no such file; says which recipes come with the package.
    """
    try:
        text = read_text(recipe)
    except FileNotFoundError as error:
        names = ", ".join(shipped())
        raise FileNotFoundError(f"there is no recipe {recipe}; `cbsae recipe NAME` prints one of {names}") from error
    sections = _parse(text, str(recipe)) or {}
    if not isinstance(sections, dict):
        raise ValueError(f"{recipe} holds no sections")
    return sections


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from error


def load_function(source: str) -> Callable[..., Any]:
    """Imports a function that a recipe names as ``module:function``, from the current folder or what is installed.

    Raises:
        ValueError: If there is none.
    """
    module, _, function = source.partition(":")
    if (folder := os.getcwd()) not in sys.path:  # the program `cbsae` does not look there by itself
        sys.path.append(folder)
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{source!r} is no module:function of this folder or of a package: {error}") from error


def shipped() -> Mapping[str, str]:
    """The recipes that come with the package: their names, sorted, and their texts."""
    folder = resources.files(__package__).joinpath("recipes")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}
