"""Writes docs/recipes.md, all settings of all sections of a recipe, from their types and the texts below them.

python docs/recipe_page.py
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api_page import _fields, _first, _plain
from pydantic import TypeAdapter

from cbsae_hub.pipeline.sections import SECTIONS, EncoderSettings, PruneSettings
from cbsae_hub.trainers.settings import Settings

PAGE = Path(__file__).parent / "recipes.md"
HEAD = """# Settings of recipes

Written by `python docs/recipe_page.py` from the typed sections, `cbsae_hub/pipeline/sections/`. A recipe is a YAML
file with one flat section per step; `cbsae recipe own-encoder` prints one with every setting. `--set key=value`
overrides one; where a command reads several sections, `--set cbsae.steps=300` says whose it is. A setting without a
default has to be given.
"""
BOUNDS = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
NAMES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}


def page() -> str:
    """The page."""
    parts = [HEAD, *(_section(f"`{name}`", kind) for name, kind in SECTIONS.items())]
    parts.insert(list(SECTIONS).index("cbsae") + 2, _section("`prune` of `cbsae`", PruneSettings))
    parts.insert(list(SECTIONS).index("activations") + 2, _section("`encoder` of `activations`", EncoderSettings))
    return "\n".join(parts)


def _section(title: str, kind: type[Settings]) -> str:
    rows = "".join(
        f"| `{name}` | {form} | {default} | {meaning} |\n".replace("|  |", "| |")
        for name, form, default, meaning in settings_of(kind)
    )
    return f"## {title}\n\n{_first(kind)}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{rows}"


def settings_of(kind: type[Settings]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each setting of a section, those without a default first."""
    schema = TypeAdapter(kind).json_schema()
    texts = meanings(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for one in sorted(fields, key=lambda one: one.name not in schema.get("required", ())):
        form = _type(schema["properties"][one.name], schema.get("$defs", {}))
        yield one.name, form, _default(one), texts[one.name].replace("|", "\\|")


def meanings(kind: type[Settings]) -> dict[str, str]:
    """The text below each field, where the last class of the order of inheritance defines it; "" if there is none."""
    own = [cls for cls in reversed(kind.__mro__) if issubclass(cls, Settings) and dataclasses.is_dataclass(cls)]
    return {code.partition(":")[0]: _plain(text) for cls in own for code, text in _fields(cls)}


def _default(one: dataclasses.Field) -> str:
    if one.default_factory is not dataclasses.MISSING:
        value: Any = one.default_factory()
    elif one.default is dataclasses.MISSING:
        return ""
    else:
        value = one.default
    text = json.dumps(value, ensure_ascii=False)
    return f"`{value if isinstance(value, str) else text}`"


def _type(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return f"mapping: {', '.join(known[schema['$ref'].rpartition('/')[2]]['properties'])}"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one, known) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping to {_type(inner, known)}" if isinstance(inner, dict) else "mapping"
    if kind == "array":
        return f"list of {_type((schema.get('prefixItems') or [schema['items']])[0], known)}"
    if schema.get("format") == "path":
        return "path"
    bounds = [f"{word} {schema[name]:g}" for name, word in BOUNDS.items() if name in schema]
    return " ".join([NAMES.get(kind, kind), *bounds])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
