"""The page: ``python app.py [--model FOLDER_OR_HUB_ID ...] [--llava ID] [--unclip ID]``, also on Spaces."""

import argparse
import os
import sys
from pathlib import Path

from cbsae_hub.studio.serve import serve

HUB = Path(__file__).parent / "hub"
SHIPPED = ("emoji-cbsae", "emoji-sae")


def arguments() -> argparse.Namespace:
    """Reads the command line; a Space has none, and is reached from outside."""
    on_space = "SPACE_ID" in os.environ
    models = [name.strip() for name in os.environ.get("CBSAE_MODELS", "").split(",") if name.strip()]
    parser = argparse.ArgumentParser(
        description="Look up what the neurons of a vision SAE mean, and steer LLaVA and Stable unCLIP with them."
    )
    parser.add_argument(
        "--model", action="append", help="folder or Hub id of an SAE or CB-SAE with a pack, or what cbsae explain "
        "made; several times for a choice (or CBSAE_MODELS, with commas); default the shipped ones"
    )  # fmt: skip
    parser.add_argument("--llava", default=os.environ.get("CBSAE_LLAVA"), help="LLaVA to steer (or CBSAE_LLAVA)")
    parser.add_argument("--unclip", default=os.environ.get("CBSAE_UNCLIP"), help="unCLIP to steer (or CBSAE_UNCLIP)")
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")), help="port to listen on"
    )
    options = parser.parse_args([] if on_space else None)
    options.model = options.model or models
    if not options.model:  # the LLaVA and the unCLIP that are shipped go with the models that are
        options.model = [str(HUB / name) for name in SHIPPED]
        options.llava = options.llava or str(HUB / "emoji-llava")
        options.unclip = options.unclip or str(HUB / "emoji-unclip")
    return options


if __name__ == "__main__":
    options = arguments()
    try:
        page = serve(options.model, options.llava, options.unclip, host=options.host, port=options.port)
    except (OSError, ValueError) as error:
        sys.exit(f"The page cannot start: {error}")
    print(f"The page is at {page.local_url}; Ctrl-C ends it.", flush=True)
    page.block_thread()
