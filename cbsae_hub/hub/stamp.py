"""What is put into a card stays text, and a card that was edited by hand is recognised."""

import hashlib
import re
import unicodedata
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)

_STAMP = "<!-- written by cbsae_hub {digest}: edit freely, an edited card is kept -->\n"
_STAMP_PATTERN = re.compile(r"<!-- written by cbsae_hub ([0-9a-f]{16}): .*? -->\n")


def is_hub_id(value: Any) -> bool:
    """Whether the Hub takes this as "owner/name"; "../name", say, it refuses."""
    if not isinstance(value, str) or not REPO_ID.fullmatch(value):
        return False
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def stamped(card: str) -> str:
    """A card with a line at its end that tells whether it was changed since."""
    return card + _STAMP.format(digest=_digest(card))


def edited_by_hand(card: str) -> bool:
    """Whether a card is anything else than what :func:`stamped` returned."""
    card = card.replace("\r\n", "\n")
    stamp = _STAMP_PATTERN.search(card)
    return stamp is None or stamp.group(1) != _digest(card[: stamp.start()] + card[stamp.end() :])


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


def number(value: float) -> str:
    """Whole ones with separators of thousands, others with three decimals."""
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    return f"{value:.3f}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _one_line(value: Any) -> str:
    text = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in str(value))
    return " ".join(text.split())[:500]
