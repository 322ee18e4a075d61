"""The model card that a model writes for itself, and how a card edited by hand is recognised."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
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
) -> str:
    """Renders a card; values are inserted as data, they cannot add metadata, markup or template code."""
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(inline=_inline, code=_code, literal=_literal)
    text = environment.from_string(_TEMPLATE).render(
        title=title,
        summary=summary,
        class_name=class_name,
        repo_id=repo_id,
        settings=settings,
        metadata=metadata.to_yaml().strip(),
    )
    return text + _STAMP.format(digest=_digest(text))


def edited_by_hand(card: str) -> bool:
    """Whether a card is anything else than what :func:`render_card` wrote."""
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


def _literal(value: Any) -> str:
    """A Python string on one line that cannot end the code block."""
    return repr(_one_line(value).replace("`", "'"))
