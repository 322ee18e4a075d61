"""Writes the cards of what is in ``hub/``: the parts written by hand in ``model_cards/``, and what was measured.

python training/write_cards.py
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from cbsae_hub.cards.write import CardError, write_card

ROOT = Path(__file__).parents[1]


def main(names: Annotated[list[str] | None, typer.Argument(help="Folders of hub/; default all.")] = None) -> None:
    """Write the cards again."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in names or sorted(path.stem for path in (ROOT / "model_cards").glob("*.md")):
        try:
            write_card(ROOT / "hub" / name, f"hub/{name}", ROOT / "model_cards" / f"{name}.md")
        except (CardError, OSError) as error:
            raise typer.BadParameter(str(error)) from error
        logging.info("hub/%s/README.md", name)


if __name__ == "__main__":
    typer.run(main)
