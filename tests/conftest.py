"""Fixtures of all tests, what is slow among them, and which begin first."""

from itertools import chain, groupby, zip_longest

import pytest
from stub_hub import cdn, hub  # noqa: F401

BROWSER = "tests/browser/"
SLOW = BROWSER, "tests/docs/", "tests/emoji_world/", "tests/end_to_end/"
LONG = "tests/end_to_end/", "tests/pipeline/", "tests/studio/", "tests/docs/"


def pytest_collection_modifyitems(items):
    """Marks the folders whose tests start whole programs, and has the longest files begin first.

    Files go to the processes in this order: no process is left alone with a long one at the end, and every other file
    has no browser, as four of these at once would wait for each other.
    """
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    files = [list(group) for _, group in groupby(items, key=lambda item: item.nodeid.partition("::")[0])]
    browser = [file for file in files if file[0].nodeid.startswith(BROWSER)]
    others = [file for file in files if not file[0].nodeid.startswith(BROWSER)]
    others.sort(key=lambda file: not file[0].nodeid.startswith(LONG))
    pairs = zip_longest(sorted(browser, key=len, reverse=True), others, fillvalue=[])
    items[:] = chain.from_iterable(chain.from_iterable(pairs))
