"""Puts the names of neurons to the test on held-out images, and other explanations beside them.

    python -m training.names --recipe training/recipes/emoji.yaml

Reads the sections `names` and `scores`, whose folder has the scores. Adds the columns that begin with ``name_`` to the
neuron table there. Then some of the neurons are explained in all ways: CLIP-Dissect's name, linear sums of one to five
concepts, LLaVA's own words while the neuron's direction is added, and words of further models about the masked top
images. Writes explanations.parquet (every explanation and its scores), names.json, .md and .png. Started again it goes
on where it was killed: passes over images have checkpoints, answers.json has what was said.

An endpoint's key is read from the environment variable EXPLAINER_API_KEY. The study is
:mod:`cbsae_hub.studies.names`; docs/metrics.md says what is measured.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from tqdm import tqdm

from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import replace_file, write_json, write_text
from cbsae_hub.metrics.linear_explanation import LinearExplanations, explain_linearly
from cbsae_hub.pipeline.names import heldout, pass_over, simulate
from cbsae_hub.pipeline.sections import ChatJudgeSettings, NamesSection, ScoresSection
from cbsae_hub.plots import plot_names
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import NeuronScorer
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.scoring.simulation import SeenImages
from cbsae_hub.steering import LlavaSteerer
from cbsae_hub.studies.explainers import ChatExplainer, Explainer, TransformersExplainer
from cbsae_hub.studies.names import NameTrial, as_markdown, choose, shuffled, summary
from cbsae_hub.studies.own_words import MaskedImages, OwnWords
from cbsae_hub.studies.result_file import ResultFile

AMONG = ("names", "scores")
KEY = "EXPLAINER_API_KEY"
UNSAID = ("output", "judge", "split", "images", "others", "concepts", "trial")  # settings that change no answer


def linear_explanations(scorer: NeuronScorer, count: int) -> tuple[LinearExplanations, list[str]]:
    """Explanations by the judge and the images that named the neurons, and the concepts that they are of."""
    concepts = list(next(iter(scorer.concepts.values())))
    images = SeenImages.of(scorer)
    return explain_linearly(images.latents, images.similarities(concepts), count), concepts


def explainer_of(
    one: str | ChatJudgeSettings, settings: NamesSection, model: str, device: Any
) -> tuple[str, Explainer]:
    """A further model that a recipe names, and its name in the table."""
    options = {"prompt": settings.prompt or ONE_WORD, "max_new_tokens": settings.max_new_tokens}
    if isinstance(one, ChatJudgeSettings):
        return one.model, ChatExplainer(one.model, one.base_url, os.environ.get(KEY), **options)
    return one, TransformersExplainer.from_pretrained(one, device, beside=model, **options)


def ask_all(
    settings: NamesSection, scores: ScoresSection, scorer: NeuronScorer, neurons: pd.DataFrame, device: Any
) -> dict[str, list[str]]:
    """Answers of LLaVA and of further models about the neurons, by the way of asking."""
    own = {key: value for key, value in settings.to_dict().items() if key not in (*UNSAID, "explainers")}
    identity = {**own, "model": scores.model, "ids": neurons["neuron"].tolist()}
    answers = ResultFile(settings.output / "answers.json", identity)
    images = load_images(scores.images, scores.split, beside=scores.model)
    masked = MaskedImages(scorer.sae, scorer.encoder, images, settings.tops)
    if settings.llava:
        llava = LlavaSteerer.from_pretrained(settings.llava, scores.model, device=device, beside=scores.model)
        options = settings.chosen("alpha", "prompt", "max_new_tokens", "seed")
        words = OwnWords(llava, masked, **options)
        for method, ask in words.ways(neurons).items():
            answers.get(method, ask)
    for one in settings.explainers:
        name, explain = explainer_of(one, settings, scores.model, device)
        answers.get(f"{name}, masked images", partial(_ask_one_by_one, explain, masked, neurons))
    return answers.results


def _ask_one_by_one(explain: Explainer, masked: MaskedImages, neurons: pd.DataFrame) -> list[str]:
    rows = tqdm(neurons.itertuples(), desc="ask", total=len(neurons), unit="neuron")
    return [explain(masked(row.neuron, row.top_images)) for row in rows]


def compare(settings: NamesSection, scores: ScoresSection, images: SeenImages, frame: pd.DataFrame) -> pd.DataFrame:
    """Explanations of the chosen neurons and their scores, a row for each of either."""
    neurons, device = choose(frame, settings.neurons), make_accelerator(alone=True).device
    trial = NameTrial(neurons, images, settings.trial, settings.seed)
    names = neurons["name"].tolist()
    other = "control: another neuron's"
    rows = [
        trial.of_names("CLIP-Dissect", names),
        trial.of_names(f"{other} name by CLIP-Dissect", shuffled(names, settings.seed)),
    ]
    scorer = pass_over(scores, settings.output / "named", device)
    explanations, concepts = linear_explanations(scorer, settings.concepts)
    for count in range(1, settings.concepts + 1):
        rows.append(trial.of_sums(f"linear, up to {count}", explanations, concepts, count))
    for method, texts in ask_all(settings, scores, scorer, neurons, device).items():
        rows.append(trial.of_answers(method, texts))
        if not method.startswith("control"):
            rows.append(trial.of_answers(f"{other} words, {method}", shuffled(texts, settings.seed)))
    return pd.concat(rows, ignore_index=True)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; sections `names` and `scores` are read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Test names of neurons on held-out images; a Markdown table goes to standard output.

    --set is of section `names`; --set scores.KEY=VALUE of the other.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = NamesSection.read(recipe, overrides, among=AMONG)
        scores = ScoresSection.read(recipe, overrides, among=AMONG)
        images = heldout(settings, scores, make_accelerator(alone=True).device)
        after = simulate(settings, scores, images)
        rows = compare(settings, scores, images, after.neurons)
        table, folder = summary(rows, settings.seed), settings.output
        with replace_file(folder / "explanations.parquet") as file:
            rows.to_parquet(file, index=False)
        with replace_file(folder / "names.png") as file:
            plot_names(table).savefig(file, format="png")
        write_text(folder / "names.md", as_markdown(table))
        content = {
            "settings": settings.to_dict(defaults=False) | {"scores": scores.recorded()},
            "simulation": after.summary["simulation"],
            "summary": table.to_dict("records"),
        }
        write_json(folder / "names.json", content)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(as_markdown(table), nl=False)


if __name__ == "__main__":
    typer.run(main)
