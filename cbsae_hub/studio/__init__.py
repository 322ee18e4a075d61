"""The Gradio page, one file per tab."""

import os

from cbsae_hub.lazy import needed

# Gradio reads these when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")  # no request leaves the machine
# Gradio sums up statistics of all requests after each of them, which nobody reads here: a quarter of a look-up's time.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))
# Gradio would keep all runs in the browser, and send them to the Hub for who asks; its pages for that are closed here.
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")

with needed("gradio", "the page"):
    from cbsae_hub.studio.page import LAUNCH, build

__all__ = ["LAUNCH", "build"]
