"""Counts what the published scenes show, and writes ``hub/emoji-images/metrics.json``: the numbers of its card.

python -m training.emoji_world.count_images
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import write_text
from training.emoji_world.make_images import SPLITS, SPURIOUS
from training.emoji_world.paths import HUB


def count(folder: Path) -> dict[str, Any]:
    """Numbers of what the splits and lists of the dataset in a folder hold."""
    frames = {}
    for split in (*SPLITS, *SPURIOUS):
        images = load_images(folder, split)
        frames[split] = images.remove_columns("image").to_pandas()
    lists = {
        name: len((folder / f"{name}.txt").read_text(encoding="utf-8").splitlines())
        for name in ("concepts", "kinds", "words")
    }
    backgrounds = pd.concat(frames.values())["background"].nunique()
    return {
        "side": images[0]["image"].size[0],
        "scenes": {split: len(frame) for split, frame in frames.items()},
        **lists,
        "backgrounds": backgrounds,
        "objects": lists["concepts"] - backgrounds,
        "at_home": {split: float(np.mean(frame["spurious_group"].isin((0, 3)))) for split, frame in frames.items()
                    if frame["spurious_group"].notna().any()},
        "called_by_kind": float(_called_by_kind(frames["probe"])),
    }  # fmt: skip


def _called_by_kind(frame: pd.DataFrame) -> float:
    """Share of the objects whose own name is not in the caption."""
    rows = zip(frame["objects"], frame["caption"])
    return np.mean([thing["name"] not in caption for things, caption in rows for thing in things])


def main(folder: Annotated[Path, typer.Option(help="Folder of the dataset.")] = HUB / "emoji-images") -> None:
    """Count, and write metrics.json."""
    write_text(folder / "metrics.json", json.dumps(count(folder), indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
