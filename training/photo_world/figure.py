"""A picture of the best neurons: a row each, bright where the neuron fires."""

from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from cbsae_hub import Pack
from cbsae_hub.pipeline.report import spotlight

SIDE, COLUMNS, HEADING, FONT = 104, 7, 18, 13
ROWS = {"kinds": 7, "background": 1}
UNDIMMED = 0.35  # share of the picture as it is


def best_rows(controls: pd.DataFrame) -> pd.DataFrame:
    """The SAE's neurons that detect kinds and backgrounds best on the test split, each once, best first."""
    own = controls[controls["units"] == "SAE"].sort_values("lift", ascending=False, kind="stable")
    own = own.drop_duplicates("unit")
    return pd.concat([own[own["family"] == family].head(count) for family, count in ROWS.items()])


def draw_neurons(pack: Pack, rows: pd.DataFrame) -> Image.Image:
    """The pictures on which each neuron fires most.

    Args:
        pack: The SAE's, with its examples.
        rows: ``unit``, ``label`` and ``lift`` of each neuron.
    """
    height = SIDE + HEADING
    sheet = Image.new("RGB", (COLUMNS * SIDE, len(rows) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for place, row in enumerate(rows.itertuples()):
        pen.text((2, place * height), f"{row.label}: neuron {row.unit}, {row.lift:.2f}", "black", font)
        for column, example in enumerate(pack.examples(row.unit, "top", COLUMNS)):
            lit, plain = (one.convert("RGB").resize((SIDE, SIDE)) for one in (spotlight(example), example.image))
            picture = Image.blend(lit, plain, UNDIMMED)
            sheet.paste(picture, (column * SIDE, place * height + HEADING))
    return sheet


def write_figure(pack: Pack, controls: pd.DataFrame, path: Path) -> None:
    """Writes the picture as WebP."""
    draw_neurons(pack, best_rows(controls)).save(path, "WEBP", quality=70, method=6)
