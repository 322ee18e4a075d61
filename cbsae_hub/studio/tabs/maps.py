"""The choice of the maps that are laid over pictures."""

from typing import Any

import gradio as gr

from cbsae_hub.studio.links import MAPS


def maps_choice(elem_id: str) -> gr.Radio:
    """Returns the choice between a neuron's patch maps and its relevancy maps."""
    return gr.Radio(list(MAPS), value=next(iter(MAPS)), label="Maps", elem_id=elem_id)


def map_titles(code: str) -> str:
    """Returns the choice's text for what an address says."""
    return next(title for title, own in MAPS.items() if own == code)


def is_relevancy(maps: Any) -> bool:
    """Returns whether the choice is relevancy maps; without a choice it is not."""
    return MAPS.get(str(maps)) == "relevancy"
