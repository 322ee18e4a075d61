"""Makes the pictures of docs/results.md of the figures that the studies have drawn.

python docs/figures.py
"""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from cbsae_hub.hub.files import replace_file
from cbsae_hub.pictures import to_rgb

ROOT = Path(__file__).parents[1]
FIGURES = {
    "quadrants": "emoji-plots/emoji-scores-quadrants.png",
    "retained": "emoji-evaluation/retained.png",
    "cbsae-sheet": "sheet/sheet.png",
}
"""Names of the pictures in docs/images, and the files in runs/."""
QUALITY = 88


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the studies' results.")] = ROOT / "runs",
    output: Annotated[Path, typer.Option(help="Folder of the pictures.")] = ROOT / "docs" / "images",
) -> None:
    """Write the pictures as WebP."""
    if missing := [file for file in FIGURES.values() if not (runs / file).is_file()]:
        raise typer.BadParameter(f"{runs} lacks {', '.join(missing)}: make them with make results")
    for name, file in FIGURES.items():
        with Image.open(runs / file) as figure, replace_file(output / f"{name}.webp") as partial:
            to_rgb(figure).save(partial, "WEBP", quality=QUALITY)
        typer.echo(output / f"{name}.webp")


if __name__ == "__main__":
    typer.run(main)
