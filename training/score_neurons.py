"""Scores the neurons of an SAE on a set of images, in one pass: names, MonoSemanticity, reconstruction, truth and more.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml --steer

Writes neurons.parquet, labels.parquet (where the truth is known), examples.parquet, vocabulary.safetensors and
scores.json: all that build_pack.py needs. With ``--steer`` it sets each neuron and lets LLaVA speak and unCLIP draw
(recipe section ``steerability``), and adds those scores to what is there. An interrupted run goes on where its last
checkpoint was. docs/metrics.md says what each score is.
"""

import logging
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import Accelerator

from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import NeuronScorer, Scores, headline
from cbsae_hub.scoring.scorer import ImageEmbedder, image_model
from cbsae_hub.scoring.steerability import SteerabilityScorer
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer
from cbsae_hub.steering.loading import load_sae
from training.recipes import ScoresSection, SteerabilitySection

SCORER = ("judge", "concepts", "similarity", "truth", "tree", "zero_shot", "encoder", "top_k")
STEERER = ("alpha", "unit", "prompt", "drawn", "seeds", "steps", "guidance", "main", "seed")


def make_scorer(settings: ScoresSection, device: Any) -> tuple[NeuronScorer, Any]:
    """The scorer that a recipe's section asks for, and its images."""
    images = load_images(settings.images, settings.split, beside=settings.model)
    # The examples need the latents that are kept with truth.
    options = {"truth": {}, **settings.chosen(*SCORER)}
    return NeuronScorer.from_pretrained(settings.model, images, device=device, **options), images


def steering_parts(steering: SteerabilitySection, scores: ScoresSection, device: Any) -> dict[str, Any]:
    """Loads what section ``steerability`` names, beside the model of ``scores``: arguments of SteerabilityScorer."""
    model = scores.model
    sae, where = load_sae(model), {"device": device, "beside": model}
    return {
        "llava": steering.llava and LlavaSteerer.from_pretrained(steering.llava, sae, **where),
        "sentences": steering.sentences and Sentences.from_pretrained(steering.sentences, device),
        "clip": steering.clip and ClipLike.from_pretrained(steering.clip, **where),
        "unclip": steering.unclip and UnclipSteerer.from_pretrained(steering.unclip, sae, **where),
        "pictures": steering.pictures and ImageEmbedder(image_model(steering.pictures, **where)),
        "images": load_images(scores.images, scores.split, beside=model),
        **steering.chosen(*STEERER),
    }


def score(settings: ScoresSection, folder: Path, accelerator: Accelerator) -> dict[str, float]:
    """Scores without a generator; returns the figures to look at first."""
    scorer, images = make_scorer(settings, accelerator.device)
    scorer.run(images, settings.batch_size, accelerator, folder / "partial", settings.recorded())
    scores = scorer.results()
    accelerator.wait_for_everyone()  # nobody needs a checkpoint any more
    if accelerator.is_main_process:
        scores.save(folder, settings=settings.recorded(), n_images=len(images))
        shutil.rmtree(folder / "partial")
    return headline(scores.summary)


def steer(
    steering: SteerabilitySection, settings: ScoresSection, folder: Path, accelerator: Accelerator
) -> dict[str, float]:
    """Adds steerability to the scores in a folder; returns the figures to look at first."""
    scores = Scores.load(folder)
    if scores.summary["settings"] != settings.recorded():
        raise ValueError(f"the scores in {folder} were made with other settings: run without --steer first")
    scorer = SteerabilityScorer(scores.neurons, **steering_parts(steering, settings, accelerator.device))
    neurons = scorer.choose(steering.neurons)
    both = {"scores": settings.recorded(), "steerability": steering.to_dict(defaults=False)}
    columns = scorer.run(neurons, folder / "steered", accelerator, both)
    summary = scorer.summary(columns)
    if accelerator.is_main_process:
        scores.with_steerability(columns, summary).save(folder)
        shutil.rmtree(folder / "steered")
    figures = {key: part["mean"] for key, part in summary.items() if isinstance(part, dict) and "mean" in part}
    return figures | {f"share {name}": share for name, share in summary["quadrants"]["shares"].items()}


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `scores` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of the SAE; default as in the recipe.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the results; default as in the recipe.")] = None,
    steer_too: Annotated[
        bool, typer.Option("--steer", help="Add steerability (section `steerability`) to scores that are there.")
    ] = False,
) -> None:
    """Score the neurons of an SAE."""
    try:
        accelerator = make_accelerator()
        logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
        settings = ScoresSection.read(recipe, None if steer_too else overrides, model=model, output=output)
        if settings.output is None:
            raise ValueError("the recipe lacks output")
        if steer_too:
            figures = steer(SteerabilitySection.read(recipe, overrides), settings, settings.output, accelerator)
        else:
            figures = score(settings, settings.output, accelerator)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if accelerator.is_main_process:
        for name, value in figures.items():
            logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
