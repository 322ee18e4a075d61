"""Puts the tables that the studies have written into docs/results.md, each between its two marks.

python docs/results_page.py

A mark names a file in runs/, or one of ``METRICS``. A study that has not run here leaves the page as it was.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from cbsae_hub.hub.files import read_text, write_text
from cbsae_hub.studies.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
MARKED = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end -->", re.DOTALL)
KINDS = {
    "original": "scene",
    "canonical": "its canonical picture",
    "decoded": "decoded from exact latents",
    "reconstructed": "through the whole autoencoder",
}


def encoders(hub: Path) -> str:
    """Zero-shot top-1 of the three CLIPs on each split."""
    models = {name: _metrics(hub / name) for name in ("emoji-clip", "emoji-teacher", "emoji-judge")}
    splits = [key for key in models["emoji-clip"] if key.startswith("top1_")]
    lines = [
        {"split": key.removeprefix("top1_").replace("test_", "")}
        | {name: f"{figures[key]:.1f}" for name, figures in models.items()}
        for key in splits
    ]
    return markdown_table(pd.DataFrame(lines))


def unclip(hub: Path) -> str:
    """What two judges recognise of scenes, canonical pictures and drawings, and the backgrounds."""
    figures = _metrics(hub / "emoji-unclip")
    lines = []
    for key in [key for key in figures if key.startswith("judge_") and "background" not in key]:
        kind = key.removeprefix("judge_")
        measured = {"object, by emoji-judge": key, "by emoji-clip": f"clip_{kind}",
                    "background, by emoji-judge": f"judge_background_{kind}"}  # fmt: skip
        shown = KINDS.get(kind) or f"drawn, guidance {kind.removeprefix('drawn_')}"
        lines.append({"picture": shown} | {title: f"{figures[name]:.1f}" for title, name in measured.items()})
    return markdown_table(pd.DataFrame(lines))


METRICS: dict[str, Callable[[Path], str]] = {"encoders": encoders}
"""Tables of ``metrics.json`` of the shipped models."""


def fill(text: str, runs: Path, hub: Path) -> tuple[str, list[str]]:
    """Fills the marked places of a page.

    Args:
        text: The page.
        runs: Folder of the studies' results.
        hub: Folder of the shipped models.

    Returns:
        The page, and the names of the tables that are not there.
    """
    missing = []

    def put(mark: re.Match[str]) -> str:
        name = mark[1]
        if name in METRICS:
            table = METRICS[name](hub)
        elif (file := runs / name).is_file():
            table = read_text(file)
        else:
            missing.append(name)
            return mark[0]
        return f"<!-- table {name} -->\n{table.strip()}\n<!-- end -->"

    return MARKED.sub(put, text), missing


def _metrics(folder: Path) -> dict[str, float]:
    return json.loads(read_text(folder / "metrics.json"))


def main(
    runs: Annotated[Path, typer.Option(help="Folder of the studies' results.")] = ROOT / "runs",
    hub: Annotated[Path, typer.Option(help="Folder of the shipped models.")] = ROOT / "hub",
) -> None:
    """Fill the tables of docs/results.md."""
    text, missing = fill(read_text(PAGE), runs, hub)
    write_text(PAGE, text)
    typer.echo(f"{PAGE} is filled" + (f"; not measured here: {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    typer.run(main)
