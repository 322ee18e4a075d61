"""Colours, spacing and the behaviour of the page's own pieces. No fonts or scripts come from elsewhere."""

from pathlib import Path

import gradio as gr

_STATIC = Path(__file__).parent / "static"
CSS = (_STATIC / "page.css").read_text(encoding="utf-8")


def script(name: str) -> str:
    """JavaScript of one of the page's pieces: static/NAME.js."""
    return (_STATIC / f"{name}.js").read_text(encoding="utf-8")


_TEAL = gr.themes.Color(
    "#f0f9f7", "#d8f0ec", "#b3e2da", "#82cdc1", "#4fb3a5", "#2a9486", "#0f766e", "#0d5f59", "#0d4d49", "#0c3f3c",
    "#062624", name="quiet_teal",
)  # fmt: skip
_STONE = gr.themes.Color(
    "#fbfaf8", "#f4f2ee", "#e7e4de", "#d3cfc7", "#a19c93", "#7a756d", "#5b5751", "#433f3a", "#2b2926", "#1e1d1b",
    "#151413", name="quiet_stone",
)  # fmt: skip
THEME = gr.themes.Base(
    primary_hue=_TEAL,
    secondary_hue=_TEAL,
    neutral_hue=_STONE,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="*neutral_900",
    background_fill_secondary="*neutral_100",
    background_fill_secondary_dark="*neutral_800",
    block_background_fill="*background_fill_primary",
    block_border_width="1px",
    block_shadow="none",
    block_shadow_dark="none",
    block_title_text_weight="600",
    border_color_primary="*neutral_200",
    border_color_primary_dark="*neutral_700",
    body_text_color="*neutral_900",
    body_text_color_dark="*neutral_100",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#ffffff",
    button_border_width="1px",
    button_border_width_dark="1px",
    button_secondary_background_fill="*background_fill_primary",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_600",
    input_background_fill="*background_fill_primary",
    input_background_fill_dark="*neutral_900",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_600",
    color_accent="*primary_600",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
)
