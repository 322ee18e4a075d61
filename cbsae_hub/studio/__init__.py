"""The Gradio page, one file per tab."""

from cbsae_hub.lazy import needed

with needed("gradio", "the page"):
    from cbsae_hub.studio.page import LAUNCH, build

__all__ = ["LAUNCH", "build"]
