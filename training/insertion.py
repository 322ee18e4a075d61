"""Puts concepts into what LLaVA says and takes them out of it: SAE neurons against the difference of means.

    python training/insertion.py --recipe training/recipes/emoji.yaml

Needs the scores of score_neurons.py. Writes answers.parquet, then insertion.parquet (every answer and its verdict) and
insertion.json (percentages with their intervals), and prints the table. With ``--judge-again`` the answers that are
there are judged, by another judge for instance. docs/steering.md says what is measured.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import replace_file, write_json
from cbsae_hub.neurons.pack import NeuronTable
from cbsae_hub.steering import LlavaSteerer
from cbsae_hub.studies.insertion import InsertionExperiment, as_markdown, judged, summary
from cbsae_hub.studies.judges import ChatJudge, Judge
from recipe import function_of, read_recipe, require_keys

REQUIRED = ("model", "llava", "images", "split", "scores", "prompts", "judge", "output")
EXPERIMENT = ("alpha", "beta", "keep_error", "max_new_tokens", "seed")  # of InsertionExperiment
OPTIONAL = ("neurons", "where", "blanks", "batch", *EXPERIMENT)
KEY = "JUDGE_API_KEY"


def make_judge(given: str | dict[str, str]) -> Judge:
    """The judge that a recipe asks for: a function of this checkout, ``module:function``, or a language model.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, dict):
        require_keys(given, ("model",), ("base_url",))
        return ChatJudge(given["model"], given.get("base_url"), os.environ.get(KEY))
    try:
        return function_of(str(given))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"judge: {given!r} is no module:function of this checkout: {error}") from error


def ask(settings: dict[str, Any], device: str) -> pd.DataFrame:
    """The answers that a recipe's section asks for."""
    table, model = NeuronTable.read(settings["scores"]), settings["model"]
    prompts, given = settings["prompts"], {key: settings[key] for key in EXPERIMENT if key in settings}
    if "blanks" in settings:
        scenes = load_images(settings["images"], settings["blanks"], beside=model).shuffle(settings.get("seed", 0))
        given["blanks"] = [scene["image"] for scene in scenes.take(len(prompts))]
    one = InsertionExperiment(
        table.filter(**settings.get("where", {})).frame,
        LlavaSteerer.from_pretrained(settings["llava"], model, device=device, beside=model),
        load_images(settings["images"], settings["split"], beside=model),
        prompts,
        **given,
    )
    return one.run(one.choose(settings.get("neurons", 100)), settings.get("batch", 16))


def answers(settings: dict[str, Any], folder: Path, device: str, again: bool) -> pd.DataFrame:
    """Asks LLaVA and writes answers.parquet, or reads what was written.

    Raises:
        ValueError: If those are answers of other settings.
    """
    asked = {key: value for key, value in settings.items() if key != "judge"}
    if again:
        frame = pd.read_parquet(folder / "answers.parquet")
        if frame.attrs != asked:
            raise ValueError(f"the answers in {folder} are of other settings: run without --judge-again")
        return frame
    frame = ask(settings, device)
    frame.attrs = asked  # pandas keeps it in the file
    write(frame, folder / "answers.parquet")
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
        settings = read_recipe(recipe, "insertion", overrides or [])
        settings |= {key: value for key, value in (("neurons", neurons), ("output", output)) if value is not None}
        require_keys(settings, REQUIRED, OPTIONAL)
        folder, judge = Path(settings.pop("output")), make_judge(settings["judge"])
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        frame = judged(answers(settings, folder, device, again), judge)
        table = summary(frame)
        write(frame, folder / "insertion.parquet")
        content = {"settings": settings, "neurons": frame["neuron"].nunique(), "summary": table.to_dict("records")}
        write_json(folder / "insertion.json", content)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(as_markdown(table))


if __name__ == "__main__":
    typer.run(main)
