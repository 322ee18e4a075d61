"""The Gradio page, one file per tab."""

from cbsae_hub.studio.page import LAUNCH, build

__all__ = ["LAUNCH", "build"]
