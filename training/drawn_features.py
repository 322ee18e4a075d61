"""Finds out what features of a Stable Diffusion's text encoder draw: Olson et al. (2025), section 4.2 and table 3.

    python -m training.drawn_features --recipe training/recipes/emoji-diffusion.yaml

Reads the section `drawn_features`, whose scores are those of ``cbsae score --words``. Writes drawn_features.json (every
feature, its keywords and its attribute; every pair of attribute and prompt), .md (both tables) and .png (drawings).
Started again it goes on where it was killed: progress.json has what was said and measured.

An endpoint's key is read from the environment variable EXPLAINER_API_KEY. The study is
:mod:`cbsae_hub.studies.drawn_features`.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from cbsae_hub.encoders import ClipLike
from cbsae_hub.hub.files import replace_file, write_json, write_text
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pipeline.sections import ChatJudgeSettings, DrawnFeaturesSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import StableDiffusionSteerer
from cbsae_hub.studies import drawn_features as study
from cbsae_hub.studies import drawn_tables
from cbsae_hub.studies.explainers import ChatExplainer, Explainer, TransformersExplainer
from cbsae_hub.studies.names import choose
from cbsae_hub.studies.result_file import ResultFile

KEY = "EXPLAINER_API_KEY"
COLUMNS = 6  # features in the figure
ROWS = 4  # prompts in it


def explainer_of(settings: DrawnFeaturesSection, device: Any) -> Explainer:
    """The model that says what has changed."""
    count = len(settings.prompts) * len(settings.seeds)
    question = settings.question or (study.DIFFERENCES.format(n=count) if settings.together else ONE_WORD)
    options = {"prompt": question, "max_new_tokens": settings.max_new_tokens}
    if isinstance(settings.explainer, ChatJudgeSettings):
        return ChatExplainer(settings.explainer.model, settings.explainer.base_url, os.environ.get(KEY), **options)
    return TransformersExplainer.from_pretrained(settings.explainer, device, beside=settings.model, **options)


def measure(settings: DrawnFeaturesSection) -> tuple[pd.DataFrame, pd.DataFrame, study.Drawer]:
    """Features with their attributes, pairs of attribute and prompt, and what draws them."""
    device, table = make_accelerator(alone=True).device, NeuronTable.read(settings.scores)
    descriptive = study.keep_descriptive(table.frame, study.descriptive_words(settings.descriptive))
    features = choose(descriptive, settings.neurons)[["neuron", "name"]].rename(columns={"name": "word"})
    logging.info("%d of %d neurons fire on a descriptive word", len(descriptive), len(table.frame))
    where = {"device": device, "beside": settings.model}
    steerer = StableDiffusionSteerer.from_pretrained(settings.pipeline, settings.model, table, **where)
    options = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "batch": settings.batch}
    drawer = study.Drawer(steerer, settings.strength, settings.tokens, settings.seeds, options, settings.seed)
    neurons = features["neuron"].tolist()
    identity = {**settings.to_dict(), "ids": neurons, "pipeline_revision": steerer.revision}
    progress = ResultFile(settings.output / "progress.json", identity)
    names = study.find_attributes(
        drawer, explainer_of(settings, device), neurons, settings.prompts, settings.together, progress
    )
    features = features.assign(
        attribute=[names[neuron] for neuron in neurons],
        keywords=[progress.results[f"keywords {neuron}"] for neuron in neurons],
    )
    attributes = {neuron: attribute for neuron, attribute in names.items() if attribute}
    judge = ClipLike.from_pretrained(settings.judge, **where)
    return features, study.check_attributes(drawer, judge, attributes, settings.check, progress), drawer


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; the section `drawn_features` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Find out what features draw, and test it; two Markdown tables go to standard output."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = DrawnFeaturesSection.read(recipe, overrides)
        features, pairs, drawer = measure(settings)
        folder = settings.output
        content = {
            "settings": settings.to_dict(defaults=False),
            "features": features.to_dict("records"),
            "means": drawn_tables.means(pairs).to_dict("records"),
            "tests": drawn_tables.paired_tests(pairs).to_dict("records"),
            "pairs": pairs.to_dict("records"),
        }
        write_json(folder / "drawn_features.json", content)
        write_text(folder / "drawn_features.md", drawn_tables.as_markdown(pairs))
        prompts, rows = settings.check[:ROWS], features.dropna(subset="attribute").head(COLUMNS)
        columns = {"original": drawer.plain(prompts)}
        columns |= {f"{row.attribute} ({row.neuron})": drawer.steered(row.neuron, prompts) for row in rows.itertuples()}
        first = {title: pictures[:: len(settings.seeds)] for title, pictures in columns.items()}
        with replace_file(folder / "drawn_features.png") as file:
            drawn_tables.plot_drawings(first, prompts).savefig(file, format="png")
    except (ValueError, OSError, ImportError, LookupError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(drawn_tables.as_markdown(pairs), nl=False)


if __name__ == "__main__":
    typer.run(main)
