"""Uncertainty of a recipe's scores and of its evaluation: other draws, other seeds, standard errors.

    python training/uncertainty.py --recipe training/recipes/emoji.yaml

Scores the SAE again, and reads what evaluate.py left in the recipe's ``evaluate.output``. Writes uncertainty.json
there.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from cbsae_hub.hub.files import write_json
from cbsae_hub.pipeline.score import make_scorer
from cbsae_hub.pipeline.sections import EvaluationSection, ScoresSection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.scoring import NeuronScorer, Scores
from cbsae_hub.scoring.report import SURE
from cbsae_hub.studies.evaluation import MEASURES

UNUSED: dict[str, None] = {"similarity": None, "tree": None, "zero_shot": None}  # of section `scores`


def above_chance(scorer: NeuronScorer, draws: int) -> list[float]:
    """Share of neurons with a name above chance, for several draws of random neurons; the scores have the first."""
    namings = (scorer.metrics["names"].name(seed=seed) for seed in range(draws))
    firsts = (next(iter(naming.values())) for naming in namings)
    return [float(((one.percentile >= SURE) & (one.density > 0)).float().mean()) for one in firsts]


def best_neurons(scorer: NeuronScorer) -> dict[str, float]:
    """Means over the labels of the first kind of truth, of the neurons that detect each of them best.

    ``silent`` is the share of the label's images on which the neuron with the best average precision is not active.
    """
    scores, (latents, labels) = scorer.metrics["truth"].compute(), scorer.metrics["truth"].whole()
    own = scorer.truth.columns(next(iter(scorer.truth.families)))
    precision, auroc = (np.nan_to_num(part[:, own], nan=-1.0) for part in (scores.average_precision, scores.auroc))
    best, places = precision.argmax(0), np.arange(len(own))
    active = (latents[:, best] > 0).toarray()
    has_label = labels[:, own]
    return {
        "labels": len(own),
        "average_precision": float(precision[best, places].mean()),
        "auroc": float(auroc[best, places].mean()),
        "silent": float(((has_label & ~active).sum(0) / has_label.sum(0)).mean()),
        "auroc_of_others": float(auroc.max(0).mean()),
    }


def mean_and_error(values: pd.Series) -> dict[str, float]:
    """Mean of the neurons that have a value, and its standard error."""
    return {"mean": float(values.mean()), "error": float(values.sem()), "neurons": int(values.count())}


def steerability(folder: Path, judge: str, seeds: Sequence[int], family: str) -> dict[str, dict[str, Any]]:
    """Text steerability with its standard errors, as evaluate.py has measured it in its ``output``.

    Concepts are a family of the truth. Of the SAE's neurons also those alone are taken that are named after the label
    of this family that they detect best, as the bottleneck's are concepts.
    """
    sae = Scores.load(folder / "sae" / judge).neurons
    parts = {"SAE": sae, "SAE, rightly named": sae[sae["truth_agrees"].eq(True) & sae["truth_family"].eq(family)]}
    for seed in seeds:
        cb = Scores.load(folder / f"seed-{seed}" / judge).neurons
        parts |= {f"CB-SAE, seed {seed}": cb, f"its concept neurons, seed {seed}": cb[cb["kind"] == "cb"]}
    return {
        name: {title: mean_and_error(part[MEASURES[title]]) for title in ("unit vector", "white image")}
        for name, part in parts.items()
    }


def main(
    recipe: Annotated[Path, typer.Option(help="YAML file: sections `scores` and `evaluate` are read.")],
    draws: Annotated[int, typer.Option(help="Draws of the neurons with random images.")] = 9,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; default the fastest there is.")] = None,
) -> None:
    """Measure how sure the figures of a recipe are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        device = device or make_accelerator(alone=True).device
        settings, evaluation = ScoresSection.read(recipe), EvaluationSection.read(recipe)
        if not settings.truth:
            raise ValueError("section `scores` of the recipe lacks truth")
        folder, family = evaluation.output, next(iter(settings.truth))
        judge = next(iter(evaluation.judges))
        results: dict[str, Any] = {"steerability": steerability(folder, judge, evaluation.seeds, family)}
        scorer, images = make_scorer(settings.replace(**UNUSED), device)
        scorer.run(images)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    results |= {"names above chance": above_chance(scorer, draws), "best neurons": best_neurons(scorer)}
    write_json(folder / "uncertainty.json", results)
    rows = [
        {"part": part, **{f"{title}, {kind}": number for title, one in figures.items() for kind, number in one.items()}}
        for part, figures in results["steerability"].items()
    ]
    typer.echo(pd.DataFrame(rows).round(3).to_string(index=False))
    typer.echo(f"names above chance: {', '.join(f'{share:.1%}' for share in results['names above chance'])}")
    typer.echo(", ".join(f"{name} {value:.3g}" for name, value in results["best neurons"].items()))


if __name__ == "__main__":
    typer.run(main)
