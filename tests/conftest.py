"""Fixtures of all tests, and what is slow among them."""

import pytest
from stub_hub import cdn, hub  # noqa: F401

SLOW = "tests/browser/", "tests/docs/", "tests/emoji_world/", "tests/end_to_end/"


def pytest_collection_modifyitems(items):
    """Marks the folders whose tests start whole programs."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
