"""Puts concepts into what LLaVA says and takes them out of it: SAE neurons against the difference of means.

    python training/insertion.py --recipe training/recipes/emoji.yaml

Needs the scores of score_neurons.py. Writes answers.parquet, then insertion.parquet (every answer and its verdict) and
insertion.json (percentages with their intervals), and prints the table. With ``--judge-again`` the answers that are
there are judged, by another judge for instance. docs/steering.md says what is measured.
"""

import logging
import os
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import replace_file, write_json
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pipeline.recipe import load_function
from cbsae_hub.pipeline.sections import ChatJudgeSettings, InsertionSection
from cbsae_hub.steering import LlavaSteerer
from cbsae_hub.studies.insertion import InsertionExperiment, as_markdown, judged, summary
from cbsae_hub.studies.judges import ChatJudge, Judge

EXPERIMENT = ("alpha", "beta", "keep_error", "max_new_tokens", "seed")  # of InsertionExperiment
KEY = "JUDGE_API_KEY"


def make_judge(settings: str | ChatJudgeSettings) -> Judge:
    """The judge that a recipe asks for; raises a ValueError if there is no such function."""
    if isinstance(settings, ChatJudgeSettings):
        return ChatJudge(settings.model, settings.base_url, os.environ.get(KEY))
    try:
        return load_function(settings)
    except ValueError as error:
        raise ValueError(f"judge: {error}") from error


def ask(settings: InsertionSection, device: str) -> pd.DataFrame:
    """The answers that a recipe's section asks for."""
    table, model = NeuronTable.read(settings.scores), settings.model
    options = settings.chosen(*EXPERIMENT)
    if settings.blanks:
        scenes = load_images(settings.images, settings.blanks, beside=model).shuffle(settings.seed or 0)
        options["blanks"] = [scene["image"] for scene in scenes.take(len(settings.prompts))]
    one = InsertionExperiment(
        table.filter(**settings.where).frame,
        LlavaSteerer.from_pretrained(settings.llava, model, device=device, beside=model),
        load_images(settings.images, settings.split, beside=model),
        settings.prompts,
        **options,
    )
    return one.run(one.choose(settings.neurons), settings.batch)


def answers(settings: InsertionSection, device: str, again: bool) -> pd.DataFrame:
    """Asks LLaVA and writes answers.parquet, or reads it; raises a ValueError if its answers are of other settings."""
    file, content = settings.output / "answers.parquet", settings.to_dict(defaults=False)
    decisive = {key: content[key] for key in content if key not in ("judge", "output")}
    if again:
        frame = pd.read_parquet(file)
        if frame.attrs != decisive:
            raise ValueError(f"the answers in {settings.output} are of other settings: run without --judge-again")
        return frame
    frame = ask(settings, device)
    frame.attrs = decisive  # pandas keeps it in the file
    write(frame, file)
    return frame


def write(frame: pd.DataFrame, file: Path) -> None:
    """Writes Parquet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as partial:
        frame.to_parquet(partial, index=False)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `insertion` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    neurons: Annotated[int | None, typer.Option(help="How many neurons; default as in the recipe, or 100.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the results; default as in the recipe.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the fastest there is.")] = None,
    again: Annotated[bool, typer.Option("--judge-again", help="Judge the answers of the last run.")] = False,
) -> None:
    """Insert concepts into LLaVA's answers and suppress them: SAE neurons against the difference of means.

    `judge` in the recipe is a function, module:function, or {model, base_url} of an endpoint that speaks OpenAI's
    protocol; its key is read from the environment variable JUDGE_API_KEY. `where` names columns of the neuron table
    and what they must be; `blanks` is a split whose images concepts are inserted into, instead of a white one.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = InsertionSection.read(recipe, overrides, neurons=neurons, output=output)
        folder, judge = settings.output, make_judge(settings.judge)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        frame = judged(answers(settings, device, again), judge)
        table = summary(frame)
        write(frame, folder / "insertion.parquet")
        recorded = {key: value for key, value in settings.to_dict(defaults=False).items() if key != "output"}
        content = {"settings": recorded, "neurons": frame["neuron"].nunique(), "summary": table.to_dict("records")}
        write_json(folder / "insertion.json", content)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(as_markdown(table))


if __name__ == "__main__":
    typer.run(main)
