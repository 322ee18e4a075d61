"""``accelerate launch -m cbsae_hub.cli train ...`` is ``cbsae train ...`` on many processes."""

from cbsae_hub.cli.app import app

app(prog_name="cbsae")
