"""Passes over images for the tests of names, and the columns that names as simulations add to the neuron table."""

from pathlib import Path

import torch

from cbsae_hub.neurons.chance import SURE
from cbsae_hub.pipeline.score import make_scorer, output_of
from cbsae_hub.pipeline.sections import NamesSection, ScoresSection
from cbsae_hub.scoring import NeuronScorer, Scores
from cbsae_hub.scoring.report import origin_of
from cbsae_hub.scoring.simulation import SeenImages, score_names, simulation_summary

UNUSED: dict[str, None] = {"similarity": None, "tree": None, "zero_shot": None}  # of section `scores`


def pass_over(settings: ScoresSection, checkpoint: Path, device: str | torch.device) -> NeuronScorer:
    """A scorer that has run on a section's images, without what only the scores need; goes on where it was killed.

    Args:
        settings: Section `scores`, perhaps with other images or another judge.
        checkpoint: Folder of its sums, which stay there: another call reads them.
        device: Device of the models.

    Raises:
        ValueError: If a setting cannot be, or the folder has the sums of other settings.
        OSError: If a model or the images are missing.
    """
    settings = settings.replace(**UNUSED)
    scorer, images = make_scorer(settings, device)
    scorer.run(images, settings.batch_size, checkpoint=checkpoint, settings=settings.recorded())
    return scorer


def heldout(settings: NamesSection, scores: ScoresSection, device: str | torch.device) -> SeenImages:
    """The images that names are tested on, as the model and the judge of section `names` see them.

    Raises:
        ValueError: If the judge is that of the names or the images are theirs, or see :func:`pass_over`.
        OSError: See :func:`pass_over`.
    """
    images = settings.images or scores.images
    if settings.judge == scores.judge:
        raise ValueError(f"{settings.judge} has given the names: test them by another judge")
    if images == scores.images and set(settings.split.split("+")) & set(scores.split.split("+")):
        raise ValueError(f"neurons were named with images of split {scores.split}: test the names on another split")
    other = scores.replace(judge=settings.judge, images=images, split=settings.split, truth=None)
    return SeenImages.of(pass_over(other, settings.output / "heldout", device))


def simulate(settings: NamesSection, scores: ScoresSection, images: SeenImages) -> Scores:
    """Adds to the scores that are there the columns that begin with ``name_``, docs/neuron-table.md.

    Args:
        settings: Section `names`.
        scores: Section `scores`, whose folder is read and written.
        images: See :func:`heldout`.

    Raises:
        ValueError: If the scores are of another model, or have no folder.
        OSError: If there are no scores.
    """
    folder = output_of(scores)
    before = Scores.load(folder)
    columns = score_names(before.neurons, images, settings.others, settings.seed)
    summary = {
        "judge": origin_of(images.judge),
        "images": settings.images or scores.images,
        "split": settings.split,
        "others": settings.others,
        "seed": settings.seed,
        **simulation_summary(columns, SURE),
    }
    after = before.with_simulation(columns, summary)
    after.save(folder)
    return after
