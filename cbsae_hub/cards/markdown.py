"""Templates of cards: what is inserted stays text, it cannot add metadata, markup or template code."""

import json
import re
import unicodedata
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from cbsae_hub.words import number


def environment() -> SandboxedEnvironment:
    """Escapes everything that is inserted, unless a filter says how else.

    Filters: ``code``, ``block`` (lines of a code block), ``literal`` (a Python string), ``pretty`` (JSON),
    ``decimals(1)``, ``share`` (0.125: "12.5 %"), and ``raw`` for what is Markdown already.
    """
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, _Ready) else inline(value),
    )  # fmt: skip
    environment.filters.update(
        code=lambda value: _Ready(code(value)),
        block=lambda value: _Ready(value.replace("```", "'''")),
        literal=lambda value: _Ready(literal(value)),
        pretty=lambda value: _Ready(json.dumps(value, indent=1).replace("`", "'")),
        decimals=lambda value, count=1: _Ready(f"{value:,.{count}f}"),
        share=lambda value: _Ready(f"{100 * value:.1f} %"),
        raw=_Ready,
    )
    return environment


class _Ready(str):
    """Text that is inserted as it is."""


def inline(value: Any) -> str:
    """Plain text on one line: HTML and Markdown characters are escaped; floats with three decimals."""
    if value is None:
        return ""
    text = number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _one_line(value)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#!~])", r"\\\1", text)


def code(value: Any) -> str:
    """An inline code span, also in a cell of a table."""
    text = _one_line(value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def literal(value: Any) -> str:
    """A Python string on one line that cannot end the code block that it stands in."""
    return repr(_one_line(value).replace("`", "'"))


def _one_line(value: Any) -> str:
    text = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in str(value))
    return " ".join(text.split())[:500]
