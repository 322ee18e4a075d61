"""Prunes an SAE, adds a bottleneck of the concepts that it then misses, and trains that.

    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml
    accelerate launch training/score_neurons.py --recipe training/recipes/emoji.yaml --steer
    python training/build_pack.py runs/emoji-scores
    accelerate launch training/train_cbsae.py --recipe training/recipes/emoji.yaml

Reads the scores of the SAE's neurons from the neuron table in the folder `scores`, that of score_neurons.py or of a
pack (if `names` names another folder, their names come from that), and the activations it was trained on. Writes the
model, selection.json (what was discarded, and where each concept went), training.json and log.jsonl. Ctrl-C saves,
--resume continues. A teacher's embeddings of the images are computed once and kept, so that another concept list costs
nothing.
"""

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from accelerate import Accelerator

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import extract_embeddings
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import write_json
from cbsae_hub.neurons.pruning import Pruned, prune
from cbsae_hub.neurons.selection import require_concepts, select_concepts
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.processes import make_accelerator
from cbsae_hub.trainers.cbsae.trainer import BottleneckHeldout, CBSAETrainer
from cbsae_hub.trainers.loop import Interrupted
from training.extract_activations import open_images, source_of
from training.recipes import CBSAESection


def choose(settings: CBSAESection) -> tuple[CBSAE, Pruned, pd.DataFrame]:
    """Makes the untrained model of a recipe; returns it with the reports of its pruning and of its concepts."""
    sae = SAE.from_pretrained(settings.model)
    frame, names = (NeuronTable.read(one).frame for one in (settings.scores, settings.names or settings.scores))
    if len(frame) != sae.d_sae or len(names) != sae.d_sae:
        raise ValueError(f"the scores are of {len(frame)} and {len(names)} neurons, the SAE has {sae.d_sae}")
    pruned = prune(frame, **settings.prune.to_dict(defaults=False))
    concept_set = ConceptSet.load(settings.concepts)
    concepts, report = select_concepts(list(concept_set), names, pruned.keep, settings.min_percentile, settings.force)
    require_concepts(report)
    cb = CBSAE.from_sae(
        sae,
        pruned.keep,
        concepts,
        settings.cb_k,
        cb_activation=settings.cb_activation,
        names=names["name"].where(names["name"].notna(), None).tolist(),
        pruning=pruned.settings | {"concept_list": concept_set.name, "concept_list_sha256": concept_set.sha256},
        seed=settings.seed,
    )
    return cb, pruned, report


def train_model(settings: CBSAESection, accelerator: Accelerator, resume: bool = False) -> BottleneckHeldout:
    """Trains the model that a recipe's section asks for, and writes it with its selection.json."""
    config = settings.config()
    cb, pruned, report = choose(settings)
    logging.info("%s", pruned.report.to_string(index=False))
    logging.info("concepts: %s", report["where"].value_counts().to_dict())
    store = ActivationStore.open(settings.activations)
    teacher = ClipLike.from_pretrained(settings.teacher, device=accelerator.device, beside=settings.model)
    images, _ = open_images(source_of(store.manifest["images"]))
    source = store.manifest["images"]
    embeddings = extract_embeddings(teacher, images, settings.embeddings, source=source, accelerator=accelerator)
    train, heldout = store.holdout(config.heldout_fraction, config.seed)
    texts = teacher.embed_texts(cb.concepts)
    trainer = CBSAETrainer(config, cb, train, heldout, embeddings, texts, settings.output)
    if accelerator.is_main_process:
        settings.output.mkdir(parents=True, exist_ok=True)
        tables = {"parts": pruned.report.to_dict("records"), "concepts": report.to_dict("records")}
        write_json(settings.output / "selection.json", {"pruning": pruned.settings, **tables})
    return trainer.train(resume=resume)


def main(
    recipe: Annotated[Path | None, typer.Option(help="YAML file; its section `cbsae` is read.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, over the recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default as in the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in the output.")] = False,
) -> None:
    """Prune an SAE and train a concept bottleneck beside what is left."""
    try:
        accelerator = make_accelerator()
        logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR, format="%(message)s")
        final = train_model(CBSAESection.read(recipe, overrides, output=output), accelerator, resume)
    except (ValueError, OSError, FloatingPointError) as error:
        raise typer.BadParameter(str(error)) from error
    except Interrupted as stop:
        logging.warning("%s", stop)
        raise typer.Exit(stop.exit_code) from stop
    for name, value in final._asdict().items():
        logging.info("%-28s %.4f", name, value)


if __name__ == "__main__":
    typer.run(main)
