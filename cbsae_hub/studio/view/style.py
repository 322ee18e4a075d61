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
_SETTINGS = {  # by light, and by dark
    "body_background_fill": ("*neutral_50", "*neutral_950"),
    "background_fill_primary": ("#ffffff", "*neutral_900"),
    "background_fill_secondary": ("*neutral_100", "*neutral_800"),
    "block_shadow": ("none", "none"),
    "border_color_primary": ("*neutral_200", "*neutral_700"),
    "body_text_color": ("*neutral_900", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
    "button_primary_background_fill": ("*primary_600", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_700"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_border_width": ("1px", "1px"),
    "button_secondary_background_fill": ("*background_fill_primary", "*neutral_800"),
    "button_secondary_border_color": ("*neutral_300", "*neutral_600"),
    "input_background_fill": ("*background_fill_primary", "*neutral_900"),
    "input_border_color": ("*neutral_300", "*neutral_600"),
    "link_text_color": ("*primary_700", "*primary_300"),
}
THEME = gr.themes.Base(
    primary_hue=_TEAL,
    secondary_hue=_TEAL,
    neutral_hue=_STONE,
    radius_size=gr.themes.sizes.radius_md,
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    block_background_fill="*background_fill_primary",
    block_border_width="1px",
    block_title_text_weight="600",
    input_border_width="1px",
    color_accent="*primary_600",
    **{name + mode: value for name, pair in _SETTINGS.items() for mode, value in zip(("", "_dark"), pair)},
)
