"""Prunes an SAE, adds a bottleneck of the concepts that it then misses, and trains that."""

import logging

import pandas as pd
from accelerate import Accelerator

from cbsae_hub import CBSAE, SAE, ConceptSet
from cbsae_hub.data.activations import ActivationStore
from cbsae_hub.data.embeddings import extract_embeddings
from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.hub.files import write_json
from cbsae_hub.neurons.pruning import Pruned, prune
from cbsae_hub.neurons.selection import require_concepts, select_concepts
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pipeline.extract import open_images, source_of
from cbsae_hub.pipeline.sections import CBSAESection
from cbsae_hub.processes import make_accelerator
from cbsae_hub.trainers.cbsae.trainer import BottleneckHeldout, CBSAETrainer


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


def train_bottleneck(
    settings: CBSAESection, *, resume: bool = False, accelerator: Accelerator | None = None
) -> BottleneckHeldout:
    """Trains the model, and writes it with selection.json: what was discarded, and where each concept went.

    A teacher's embeddings of the images are computed once and kept, so that another list of concepts costs nothing.

    Args:
        settings: Section `cbsae`.
        resume: Go on from the checkpoint in the output folder, if there is one.
        accelerator: The run's; default a new one.

    Returns:
        Figures on held-out activations.

    Raises:
        ValueError: If a setting cannot be, or the checkpoint is of other settings.
        OSError: If something is missing, or the output folder has a checkpoint and ``resume`` is False.
        FloatingPointError: If the loss becomes infinite or NaN.
        Interrupted: If the process got SIGINT or SIGTERM; a checkpoint was saved.
    """
    accelerator, config = accelerator or make_accelerator(), settings.config()
    cb, pruned, report = choose(settings)
    logging.info("%s", pruned.report.to_string(index=False))
    logging.info("concepts: %s", report["where"].value_counts().to_dict())
    store = ActivationStore.open(settings.activations)
    if store.manifest["encoder"].get("tower") == "text":
        raise ValueError("a bottleneck learns from a teacher of images, and these activations are of texts")
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
