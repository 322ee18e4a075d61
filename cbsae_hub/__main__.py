"""``python -m cbsae_hub`` is ``cbsae``."""

from cbsae_hub.cli.app import app

app(prog_name="cbsae")
