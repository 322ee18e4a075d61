"""The page: ``python app.py [--model FOLDER_OR_HUB_ID] [--host 127.0.0.1] [--port 7860]``, also on Spaces."""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")  # no request leaves the machine

from cbsae_hub.studio import LAUNCH, build  # noqa: E402

SHIPPED = Path(__file__).parent / "hub" / "emoji-cbsae"


def arguments() -> argparse.Namespace:
    """The command line; a Space has none and is reached from outside."""
    on_space = "SPACE_ID" in os.environ
    parser = argparse.ArgumentParser(description="Look up what the neurons of a vision SAE mean.")
    parser.add_argument(
        "--model", default=os.environ.get("CBSAE_MODEL", str(SHIPPED)), help="folder or Hub id (or CBSAE_MODEL)"
    )
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")), help="port to listen on"
    )
    return parser.parse_args([] if on_space else None)


if __name__ == "__main__":
    chosen = arguments()
    try:
        demo = build(chosen.model)
    except (OSError, ValueError) as error:
        sys.exit(f"The page cannot start with the model {chosen.model}: {error}")
    demo.launch(server_name=chosen.host, server_port=chosen.port, **LAUNCH)
