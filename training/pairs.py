"""Scores the neurons of an SAE on pairs of images that differ in one thing, beside controls that are nonsense.

    python training/pairs.py --recipe training/recipes/emoji.yaml

The study is :mod:`cbsae_hub.studies.pairs`; docs/metrics.md defines its scores. Writes concepts.parquet and
pairs.parquet (every concept and every pair, with every model), pairs.json, .md and .png. Run it again to go on where it
was interrupted: models that are scored are kept in ``parts/``.
"""

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from tqdm import tqdm

from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import claim, folder_revision, replace_file, write_json, write_text
from cbsae_hub.pipeline.sections import PairsSection
from cbsae_hub.plots import plot_intervals
from cbsae_hub.processes import make_accelerator
from cbsae_hub.studies.pair_tables import ALL, TITLES, as_markdown, by_change, summary
from cbsae_hub.studies.pairs import PairStudy

OPTIONS = ("seeds", "most", "steered", "strength", "min_images", "batch", "seed")
FIGURE = ("coalition", "switch", "cosine", "f1", "selectivity")


def make_study(settings: PairsSection) -> PairStudy:
    """Loads what the section names, and looks at all images."""
    device, model = make_accelerator(alone=True).device, settings.model
    sae = load(model, device=device).eval()
    return PairStudy(
        sae,
        explained_encoder(sae, device=device, beside=model),
        load_images(settings.images, settings.split, beside=model),
        load_images(settings.pairs, settings.pairs_split, beside=model),
        settings.truth,
        **settings.chosen(*OPTIONS),
    )


def weights_of(model: str) -> str | None:
    """The revision of a model in a folder: what was scored of other weights is not gone on with."""
    return folder_revision(model) if Path(model).is_dir() else None


def write(frame: pd.DataFrame, file: Path) -> None:
    """Writes Parquet."""
    with replace_file(file) as partial:
        frame.to_parquet(partial, index=False)


def scored(settings: PairsSection) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of all concepts and of all pairs; models that an interrupted run has scored are not scored again."""
    folder = settings.output / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    study, frames = make_study(settings), []
    for model in tqdm(study.candidates, desc="score", unit="model"):
        name = f"{model.name.replace(' ', '-')}-{model.seed}".lower()
        files = [folder / f"{name}-{part}.parquet" for part in ("concepts", "pairs")]
        if not all(file.is_file() for file in files):
            for frame, file in zip(study.score(model), files):
                write(frame, file)
        frames.append([pd.read_parquet(file) for file in files])
    concepts, pairs = (pd.concat(parts, ignore_index=True) for parts in zip(*frames))
    return concepts, pairs


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `pairs` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Score neurons on pairs of images that differ in one thing; Markdown tables go to standard output."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        settings = PairsSection.read(recipe, overrides)
        content = settings.to_dict(defaults=False)
        decisive = {key: value for key, value in content.items() if key not in ("output", "batch")}
        claim(settings.output, decisive | {"revision": weights_of(settings.model)})
        concepts, pairs = scored(settings)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    folder, tables = settings.output, (summary(concepts), by_change(pairs))
    write(concepts, folder / "concepts.parquet")
    write(pairs, folder / "pairs.parquet")
    records = dict(zip(("summary", "by_change"), (table.to_dict("records") for table in tables)))
    write_json(folder / "pairs.json", {"settings": content, **records})
    write_text(folder / "pairs.md", as_markdown(*tables))
    whole = tables[0][tables[0]["family"] == ALL]
    with replace_file(folder / "pairs.png") as partial:
        plot_intervals(whole, {name: TITLES[name] for name in FIGURE}).savefig(partial, format="png")
    typer.echo(as_markdown(*tables), nl=False)


if __name__ == "__main__":
    typer.run(main)
