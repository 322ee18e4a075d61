"""Evaluates the SAE and the CB-SAE of a recipe: the tables and figures of the CB-SAE paper."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.cards.write import write_card
from cbsae_hub.data.hierarchy import ConceptTree
from cbsae_hub.data.images import load_images
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.explained import explained_encoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.hub.files import CONFIG_NAME, claim, replace_file, write_json, write_text
from cbsae_hub.models import folder_revision
from cbsae_hub.models.base import EVALUATION_NAME
from cbsae_hub.pipeline.bottleneck import train_bottleneck
from cbsae_hub.pipeline.score import steering_parts
from cbsae_hub.pipeline.sections import CBSAESection, EvaluationSection, ScoresSection, SteerabilitySection
from cbsae_hub.plots import plot_variants
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import Scores, Truth
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.scoring.scorer import ImageEmbedder, image_model
from cbsae_hub.studies.evaluation import RAW, Evaluator, as_markdown, row, tables

# The paper's figures 5 and 9: what is along the axis, its title, and the variants in the figure besides the first seed.
FIGURES = {"retained": ("neurons retained", "share-"), "k": ("k of the bottleneck", "k-")}


def trained(settings: CBSAESection, folder: Path, accelerator: Accelerator) -> CBSAE:
    """The model that an earlier call left in the folder, or a new one; a ValueError if it has other settings."""
    settings = settings.replace(output=folder)
    claim(folder, {name: value for name, value in settings.to_dict(defaults=False).items() if name != "output"})
    if not (folder / "training.json").is_file():
        logging.info("%s", folder.name)
        train_bottleneck(settings, resume=True, accelerator=accelerator)
    return CBSAE.from_pretrained(folder)


def make_evaluator(
    settings: EvaluationSection, scores: ScoresSection, steering: SteerabilitySection, device: Any
) -> Evaluator:
    """Loads the images, judges and generators of the recipe, with which all models are scored."""
    model, where = scores.model, {"device": device, "beside": scores.model}
    sae = SAE.from_pretrained(model)
    encoder = explained_encoder(sae, scores.encoder, **where)
    images = load_images(scores.images, scores.split, beside=model)
    truth = Truth.read(images, scores.truth or {})
    loaded = {name: ClipLike.from_pretrained(one, **where) for name, one in settings.judges.items()}
    similarity = image_model(scores.similarity or next(iter(settings.judges.values())), **where)
    source = {"id": scores.images, "split": scores.split}
    probe = Probe.make(settings.output / "probe", encoder, images, source=source, judges=loaded, similarity=similarity)
    head = None
    if scores.zero_shot:
        classes, revision = truth.classes()[0], sae.encoder_revision
        head = ZeroShotHead.from_pretrained(sae.encoder_id, classes, scores.zero_shot, revision, beside=model)
    # Pach et al.'s variant, which needs a CLIP, is in no table; all neurons are in.
    generators = steering_parts(steering.replace(clip=None, neurons=None), scores, device)
    return Evaluator(
        probe,
        encoder,
        loaded,
        {name: ConceptSet.load(source) for name, source in scores.concepts.items()},
        truth,
        head,
        ImageEmbedder(similarity),
        generators.pop("llava"),
        generators.pop("unclip"),
        scores.top_k or 100,
        generators,
        tree=ConceptTree.load(scores.tree) if scores.tree else None,
    )


def scored(
    evaluator: Evaluator, model: SAE | CBSAE, folder: Path, judge: str, section: ScoresSection, **steering: bool
) -> Scores:
    """The scores of a model by a judge, from the folder where an earlier call put them; see Evaluator.evaluate."""
    folder /= judge
    if not (folder / "scores.json").is_file():
        settings = section.replace(model=str(model.repo_id), judge=evaluator.judges[judge].repo_id).recorded()
        scores = evaluator.evaluate(model, judge, **steering)
        scores.save(folder, judge_name=judge, settings=settings, n_images=len(evaluator.probe))
    return Scores.load(folder)


def publish(folder: Path, evaluated: Path, content: dict[str, Any]) -> None:
    """Puts the tables beside the recipe's model and into its card, if it has the weights that were evaluated."""
    if not (folder / CONFIG_NAME).is_file():
        return
    if (revision := folder_revision(folder)) == folder_revision(evaluated):
        write_json(folder / EVALUATION_NAME, {"revision": revision, **content})
        write_card(folder)
    else:
        logging.warning("%s is not the model of the first seed: its card stays as it is", folder)


def evaluate(
    settings: EvaluationSection,
    base: CBSAESection,
    scores: ScoresSection,
    steering: SteerabilitySection,
    *,
    accelerator: Accelerator | None = None,
) -> dict[str, pd.DataFrame]:
    """Trains and scores all variants of a CB-SAE beside its SAE; goes on where an earlier call stopped.

    Every variant (seed, share of retained neurons, k of the bottleneck, and what is named under ``variants``) has a
    folder of its own under ``output``. Writes evaluation.json, evaluation.md and the figures there, and puts the tables
    beside the model in ``base.output``, if that is the one of the first seed.

    Args:
        settings: Section `evaluate`. What it has of the other sections' settings takes precedence.
        base: Section `cbsae`.
        scores: Section `scores`.
        steering: Section `steerability`.
        accelerator: The run's; default a new one.

    Returns:
        The tables of the CB-SAE paper, by their titles.

    Raises:
        ValueError: If a setting cannot be.
        OSError: If something is missing.
    """
    accelerator = accelerator or make_accelerator(alone=True)
    base = base.replace(**settings.chosen("steps"))
    steering = steering.replace(**settings.chosen("drawn"))
    scores = scores.replace(**settings.chosen("concepts", "truth", "zero_shot"))
    evaluator = make_evaluator(settings, scores, steering, accelerator.device)
    folder, (judge, *others) = settings.output, settings.judges
    seeds = [f"seed-{seed}" for seed in settings.seeds]
    sae = SAE.from_pretrained(base.model)
    raw = evaluator.raw_neurons(sae)
    of_raw = scored(evaluator, raw, folder / "raw-neurons", judge, scores, draw=True)
    rows = [row("SAE", scored(evaluator, sae, folder / "sae", judge, scores, draw=True), sae), row(RAW, of_raw, raw)]
    for name, variant in settings.variants_of(base).items():
        cb = trained(variant, folder / name, accelerator)
        rows.append(row(name, scored(evaluator, cb, folder / name, judge, scores, draw=name in seeds), cb))
    first = CBSAE.from_pretrained(folder / seeds[0])
    models: dict[str, tuple[SAE | CBSAE, Path]] = {
        "SAE": (sae, folder / "sae"),
        "CB-SAE": (first, folder / seeds[0]),
    }
    by_judge = {
        one: {name: scored(evaluator, *model, one, scores, speak=False) for name, model in models.items()}
        for one in (judge, *others)
    }
    frame = pd.DataFrame(rows)
    results = tables(frame, by_judge, seeds, first, of_raw)
    records = {title: table.to_dict("records") for title, table in results.items()}
    content = {"settings": settings.to_dict(defaults=False), "tables": records}
    write_text(folder / "evaluation.md", as_markdown(results))
    write_json(folder / "evaluation.json", content)
    publish(base.output, folder / seeds[0], content)
    _draw(frame, seeds[0], folder)
    return results


def _draw(rows: pd.DataFrame, first: str, folder: Path) -> None:
    for column, (title, prefix) in FIGURES.items():
        models = rows[(rows["model"] == first) | rows["model"].str.startswith(prefix)]
        with replace_file(folder / f"{column}.png") as partial:
            plot_variants(models, column, title, rows.iloc[0]).savefig(partial, format="png")
