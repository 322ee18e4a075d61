"""The shipped models, served as the page serves them."""

from pathlib import Path

import pytest

from cbsae_hub.studio.server.serving import Serving

HUB = Path(__file__).parents[2] / "hub"


@pytest.fixture(scope="session")
def serving():
    models = [HUB / "emoji-cbsae", HUB / "emoji-sae"]
    return Serving(models, str(HUB / "emoji-llava"), str(HUB / "emoji-unclip"))


@pytest.fixture(scope="session")
def shipped(serving):
    """The model that the page shows first."""
    return serving.first
