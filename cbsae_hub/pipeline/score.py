"""Scores the neurons of an SAE on a set of images: in one pass, and while a generator is steered by them."""

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.pipeline.sections import ScoresSection, SteerabilitySection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import NeuronScorer, Scores
from cbsae_hub.scoring.scorer import ImageEmbedder, image_model
from cbsae_hub.scoring.steerability import SteerabilityScorer
from cbsae_hub.steering import LlavaSteerer, UnclipSteerer
from cbsae_hub.steering.loading import load_sae

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


def score(settings: ScoresSection, *, accelerator: Accelerator | None = None) -> Scores:
    """Scores all neurons in one pass; goes on where an earlier call with these settings stopped.

    Writes neurons.parquet, labels.parquet (where the truth is known), examples.parquet, vocabulary.safetensors and
    scores.json: all that a pack is made of.

    Args:
        settings: Section `scores`.
        accelerator: The run's; default a new one.

    Raises:
        ValueError: If a setting cannot be; or ``output`` is missing.
        OSError: If a model, a list or the images are missing.
    """
    accelerator, folder = accelerator or make_accelerator(), output_of(settings)
    scorer, images = make_scorer(settings, accelerator.device)
    scorer.run(images, settings.batch_size, accelerator, folder / "partial", settings.recorded())
    scores = scorer.results()
    accelerator.wait_for_everyone()  # nobody needs a checkpoint any more
    if accelerator.is_main_process:
        scores.save(folder, settings=settings.recorded(), n_images=len(images))
        shutil.rmtree(folder / "partial")
    return scores


def steer(
    steering: SteerabilitySection, settings: ScoresSection, *, accelerator: Accelerator | None = None
) -> dict[str, Any]:
    """Adds steerability to the scores that are there; goes on where an earlier call with these settings stopped.

    Args:
        steering: Section `steerability`.
        settings: Section `scores`, as the neurons were scored.
        accelerator: The run's; default a new one.

    Returns:
        The summary of :class:`SteerabilityScorer`.

    Raises:
        ValueError: If a setting cannot be, or the scores are of other settings.
        OSError: If there are no scores, or a model is missing.
    """
    accelerator, folder = accelerator or make_accelerator(), output_of(settings)
    scores = Scores.load(folder)
    if scores.summary["settings"] != settings.recorded():
        raise ValueError(f"the scores in {folder} were made with other settings: run without --steer first")
    scorer = SteerabilityScorer(scores.neurons, **steering_parts(steering, settings, accelerator.device))
    chosen = steering.neurons
    neurons = list(chosen) if isinstance(chosen, tuple) else scorer.choose(chosen)
    both = {"scores": settings.recorded(), "steerability": steering.to_dict(defaults=False)}
    columns = scorer.run(neurons, folder / "steered", accelerator, both)
    summary = scorer.summary(columns)
    if accelerator.is_main_process:
        scores.with_steerability(columns, summary).save(folder)
        shutil.rmtree(folder / "steered")
    return summary


def output_of(settings: ScoresSection) -> Path:
    """The folder of the scores; raises a ValueError if the section has none."""
    if settings.output is None:
        raise ValueError("section `scores` lacks output: a folder for the scores")
    return settings.output
