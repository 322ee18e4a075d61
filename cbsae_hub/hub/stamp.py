"""Ids of the Hub, and the stamp by which a card that was edited by hand is recognised."""

import re
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from cbsae_hub.hub.files import sha256

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
    return card + _STAMP.format(digest=sha256(card)[:16])


def edited_by_hand(card: str) -> bool:
    """Whether a card is anything else than what :func:`stamped` returned."""
    card = card.replace("\r\n", "\n")
    stamp = _STAMP_PATTERN.search(card)
    return stamp is None or stamp.group(1) != sha256(card[: stamp.start()], card[stamp.end() :])[:16]
