"""Evaluates the SAE and the CB-SAE of a recipe: the tables and figures of the CB-SAE paper.

    python training/evaluate.py --recipe training/recipes/emoji.yaml

Every variant (seed, rule of pruning, share of retained neurons, k of the bottleneck, objectives) is trained and scored
in a folder of its own under the recipe's ``output``. Started again, it goes on where it was. Writes evaluation.json and
evaluation.md.
"""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from accelerate import Accelerator

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.data.images import load_images
from cbsae_hub.models.files import replace_file
from cbsae_hub.scoring import Scores, Truth
from cbsae_hub.scoring.evaluation import Evaluator, designated, means, parts
from cbsae_hub.scoring.probe import Probe
from cbsae_hub.scoring.report import without_nan
from cbsae_hub.scoring.scorer import explained_encoder, image_embedder, image_model
from cbsae_hub.scoring.sentences import Sentences
from cbsae_hub.steering import LlavaSteerer
from cbsae_hub.trainers.config import OBJECTIVES
from cbsae_hub.vision.clip_like import ClipLike
from cbsae_hub.vision.zero_shot import ZeroShotHead
from recipe import read_recipe, require_keys
from result_tables import markdown_table
from train_cbsae import train_model

REQUIRED = ("judges", "seeds", "output")
OPTIONAL = ("shares", "ks", "steps", "lr", "min_percentile")


def variants(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is trained: name to what differs from the recipe's section `cbsae`."""
    prune, first = base["prune"], settings["seeds"][0]
    found = {f"seed-{seed}": {"seed": seed} for seed in settings["seeds"]}
    for by in ("interpretability", "steerability"):
        found[f"by-{by}"] = {"seed": first, "prune": {**prune, "by": by}}
    found["no-steerability-objective"] = {
        "seed": first,
        "objectives": [name for name in OBJECTIVES if name != "steerability"],
    }
    for share in settings.get("shares", []):
        found[f"share-{share:g}"] = {"seed": first, "prune": {"by": prune["by"], "share": share}}
    for k in settings.get("ks", []):
        found[f"k-{k}"] = {"seed": first, "cb_k": k}
    return found


def make_evaluator(
    judges: dict[str, str], of_scores: dict[str, Any], of_steering: dict[str, Any], folder: Path, device: Any
) -> Evaluator:
    """What all models are scored with: images, judges and LLaVA of the recipe."""
    model, where = of_scores["model"], {"device": device, "beside": of_scores["model"]}
    sae = SAE.from_pretrained(model)
    encoder = explained_encoder(sae, of_scores.get("encoder"), **where)
    images = load_images(of_scores["images"], of_scores["split"], beside=model)
    truth = Truth.read(images, of_scores["truth"])
    loaded = {name: ClipLike.from_pretrained(one, **where) for name, one in judges.items()}
    similarity = image_model(of_scores.get("similarity", next(iter(judges.values()))), **where)
    source = {"id": of_scores["images"], "split": of_scores["split"]}
    probe = Probe.make(folder / "probe", encoder, images, source=source, judges=loaded, similarity=similarity)
    templates = of_scores.get("zero_shot")
    head = templates and ZeroShotHead.from_pretrained(
        sae.encoder_id, truth.classes()[0], templates, sae.encoder_revision, beside=model
    )
    return Evaluator(
        probe,
        encoder,
        loaded,
        {name: ConceptSet.load(given) for name, given in of_scores["concepts"].items()},
        truth,
        head,
        image_embedder(similarity),
        LlavaSteerer.from_pretrained(of_steering["llava"], sae, **where),
        Sentences.from_pretrained(of_steering["sentences"], device),
        of_scores.get("top_k", 100),
        {key: of_steering[key] for key in ("alpha", "unit", "prompt", "seed") if key in of_steering},
    )


def scored(evaluator: Evaluator, folder: Path, model: SAE | CBSAE, judge: str, steer: bool = True) -> Scores:
    """The scores of a model by a judge, from the folder where an earlier call put them."""
    if not (folder / "scores.json").is_file():
        evaluator.evaluate(model, judge, steer).save(folder, judge_name=judge)
    return Scores.load(folder)


def row(name: str, scores: Scores) -> dict[str, Any]:
    """A model's line in a table."""
    summary = scores.summary
    return {
        "model": name,
        **means(scores.neurons),
        "explained variance": summary["reconstruction"]["explained_variance"],
        **({"zero-shot": 100 * cost["accuracy_reconstructed"]} if (cost := summary.get("downstream")) else {}),
        **{f"coverage {part}": 100 * told["share"] for part, told in summary["coverage"].items()},
        **(designated(scores.neurons) if "designated" in scores.neurons else {}),
    }


def tables(found: dict[str, Scores], settings: dict[str, Any], output: Path) -> dict[str, pd.DataFrame]:
    """All tables, from the scores of all models by the first judge."""
    rows = pd.DataFrame([row(name, scores) for name, scores in found.items()])
    seeds = [f"seed-{seed}" for seed in settings["seeds"]]
    of_seeds = rows[rows["model"].isin(seeds)].drop(columns="model")
    spread = of_seeds.std(ddof=1) if len(of_seeds) > 1 else of_seeds.iloc[0] * float("nan")
    sae = rows[rows["model"] == "SAE"].drop(columns="model").iloc[0]
    first = CBSAE.from_pretrained(output / seeds[0])
    return {
        "SAE and CB-SAE": pd.DataFrame(
            [{"model": "SAE", **sae}, {"model": "CB-SAE", **of_seeds.mean()}, {"model": "spread of seeds", **spread}]
        ).dropna(axis=1, how="all"),
        "parts": parts(found["SAE"].neurons, found[seeds[0]].neurons, first.sae_neuron_ids),
        "variants": rows[~rows["model"].isin(seeds[1:])],
    }


def as_markdown(frames: dict[str, pd.DataFrame]) -> str:
    """The tables as they stand in the documentation."""
    blocks = []
    for title, frame in frames.items():
        shown = frame.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
        blocks.append(f"**{title}**\n\n{markdown_table(shown.astype(str).replace('nan', ''))}")
    return "\n".join(blocks)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `evaluate` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
) -> None:
    """Train and score all variants of a CB-SAE beside its SAE."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    accelerator = Accelerator()
    try:
        settings = read_recipe(recipe, "evaluate", overrides or [])
        require_keys(settings, REQUIRED, OPTIONAL)
        base, of_scores, of_steering = (read_recipe(recipe, part, []) for part in ("cbsae", "scores", "steerability"))
        base |= {key: settings[key] for key in ("steps", "lr", "min_percentile") if key in settings}
        folder = Path(settings["output"])
        evaluator = make_evaluator(settings["judges"], of_scores, of_steering, folder, accelerator.device)
        judge = next(iter(settings["judges"]))
        sae = SAE.from_pretrained(base["model"])
        found = {"SAE": scored(evaluator, folder / "sae" / judge, sae, judge)}
        for name, changes in variants(settings, base).items():
            where = folder / name
            if not (where / "training.json").is_file():
                logging.info("%s", name)
                train_model({**base, **changes, "output": str(where)}, accelerator, resume=True)
            found[name] = scored(evaluator, where / judge, CBSAE.from_pretrained(where), judge)
        made = tables(found, settings, folder)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    told = {"settings": settings, "tables": {title: frame.to_dict("records") for title, frame in made.items()}}
    for name, text in (
        ("evaluation.md", as_markdown(made)),
        ("evaluation.json", json.dumps(without_nan(told), indent=1) + "\n"),
    ):
        with replace_file(folder / name) as partial:
            Path(partial).write_text(text, encoding="utf-8")
    typer.echo(as_markdown(made))


if __name__ == "__main__":
    typer.run(main)
