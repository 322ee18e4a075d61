"""Fixtures of all tests."""

from stub_hub import cdn, hub  # noqa: F401
