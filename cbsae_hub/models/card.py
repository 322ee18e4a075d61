"""The model card that a model writes for itself, and how a card edited by hand is recognised."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)

_TEMPLATE = """\
---
{{ metadata }}
---

# {{ title | inline }}

{{ summary | inline }}

```python
from cbsae_hub import {{ class_name }}

model = {{ class_name }}.from_pretrained({{ repo_id | literal }})
latents = model.encode(activations)        # [..., d_in] -> [..., neurons]
reconstruction = model.decode(latents)
```

| setting | value |
|---|---|
{% for name, value in settings.items() -%}
| {{ name | inline }} | {{ value | code }} |
{% endfor -%}
{% for name, rows in tables.items() %}
## {{ name | inline }}

|{% for column in rows[0] %} {{ column | inline }} |{% endfor %}
|{% for column in rows[0] %}---|{% endfor %}
{% for row in rows -%}
|{% for column in rows[0] %} {{ row.get(column) | cell }} |{% endfor %}
{% endfor -%}
{% endfor %}"""

_STAMP = "<!-- written by cbsae_hub {digest}: edit freely, an edited card is kept -->\n"
_STAMP_PATTERN = re.compile(r"<!-- written by cbsae_hub ([0-9a-f]{16}): .*? -->\n")


def render_card(
    *,
    title: str,
    summary: str,
    class_name: str,
    repo_id: str,
    settings: Mapping[str, Any],
    metadata: ModelCardData,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Renders a card; values are inserted as data, they cannot add metadata, markup or template code.

    Args:
        title: Heading.
        summary: A sentence.
        class_name: What loads the model.
        repo_id: What it loads.
        settings: Name to value.
        metadata: Of the Hub.
        tables: Name to rows with the columns of the first one: what was measured.
    """
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(inline=_inline, code=_code, literal=_literal, cell=_cell)
    text = environment.from_string(_TEMPLATE).render(
        title=title,
        summary=summary,
        class_name=class_name,
        repo_id=repo_id,
        settings=settings,
        metadata=metadata.to_yaml().strip(),
        tables={name: rows for name, rows in tables.items() if rows},
    )
    return stamped(text)


def stamped(card: str) -> str:
    """A card with a line at its end that tells whether it was changed since."""
    return card + _STAMP.format(digest=_digest(card))


def edited_by_hand(card: str) -> bool:
    """Whether a card is anything else than what :func:`stamped` returned."""
    card = card.replace("\r\n", "\n")
    stamp = _STAMP_PATTERN.search(card)
    return stamp is None or stamp.group(1) != _digest(card[: stamp.start()] + card[stamp.end() :])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _one_line(value: Any) -> str:
    text = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in str(value))
    return " ".join(text.split())[:500]


def _inline(value: Any) -> str:
    """Plain text: HTML and Markdown characters are escaped."""
    text = _one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#!~])", r"\\\1", text)


def _code(value: Any) -> str:
    """An inline code span in a table cell."""
    text = _one_line(value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def number(value: float) -> str:
    """With three decimals, or none if it is whole and not small."""
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.3f}"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return ""
    return number(value) if isinstance(value, float) else _inline(value)


def _literal(value: Any) -> str:
    """A Python string on one line that cannot end the code block."""
    return repr(_one_line(value).replace("`", "'"))
