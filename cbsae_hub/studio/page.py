"""The page: a header, and one tab per question."""

import re
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from cbsae_hub.studio import html
from cbsae_hub.studio.find import FindTab
from cbsae_hub.studio.inspect_image import InspectTab
from cbsae_hub.studio.loaded import Loaded
from cbsae_hub.studio.style import CSS, THEME

TITLE = "cbsae_hub"
TABS = ("find", "inspect")
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": CSS,
    "ssr_mode": False,
    "max_file_size": "8mb",
    "show_error": False,
    "allowed_paths": [],
    "footer_links": [],
    "share": False,
}


def build(model: str | Path) -> gr.Blocks:
    """Builds the page for an SAE with a pack; encoder and judge are loaded in the background.

    Args:
        model: Folder or Hub id.

    Raises:
        OSError: If the model or its pack is missing or damaged.
    """
    loaded = Loaded(model)
    find, inspect = FindTab(loaded), InspectTab(loaded)
    with gr.Blocks(title=TITLE, delete_cache=(3600, 3600), analytics_enabled=False) as page:
        gr.HTML(html.header(loaded.pack))
        with gr.Tabs() as tabs:
            with gr.Tab("Find concept", id="find"):
                find.render()
            with gr.Tab("Inspect image", id="inspect"):
                inspect.render()

        def open_link(request: gr.Request) -> list[Any]:
            parameters = {key: value for key, value in dict(request.query_params).items() if len(value) <= 200}
            tab = parameters.get("tab", "")  # without one, whatever tab a quick visitor has opened by now stays open
            chosen = gr.Tabs(selected=tab) if re.fullmatch("|".join(TABS), tab) else gr.skip()
            return [chosen, *find.open_link(parameters)]

        page.load(open_link, None, [tabs, *find.outputs], api_visibility="private", show_progress="hidden")
    page.queue(max_size=32, default_concurrency_limit=4)
    threading.Thread(target=loaded.warm_up, daemon=True).start()
    return page
