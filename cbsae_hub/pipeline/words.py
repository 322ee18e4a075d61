"""Names the neurons of a text encoder or a language model by the words on which they fire."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from cbsae_hub.cards.write import write_card
from cbsae_hub.encoders.explained import explained_tower
from cbsae_hub.encoders.language import PROMPT, LanguageEncoder
from cbsae_hub.formats.load import load
from cbsae_hub.hub.files import plain
from cbsae_hub.models import folder_revision
from cbsae_hub.neurons.pack import Pack, StoredImage
from cbsae_hub.pipeline.extract import open_questions, open_texts
from cbsae_hub.pipeline.sections import WordsSection
from cbsae_hub.scoring import Scores
from cbsae_hub.scoring.report import MEASURED
from cbsae_hub.scoring.words import WordScorer


def score_words(settings: WordsSection) -> Scores:
    """Scores all neurons in one pass over texts, in one process.

    Args:
        settings: Section `words`.

    Raises:
        ValueError: If a setting cannot be, or the SAE explains a vision encoder.
        OSError: If the model, its encoder or the texts are missing.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sae = load(settings.model, device=device)
    encoder = explained_tower(sae, settings.encoder, device, beside=settings.model)
    items: Any
    if isinstance(encoder, LanguageEncoder):
        items, source = open_questions(settings, settings.column, encoder.prompt or PROMPT)
    else:
        items, source = open_texts(settings, settings.column)
    scores = WordScorer(sae, encoder, settings.seed).run(items, settings.batch_size)
    recorded = settings.to_dict(defaults=False)
    scores.save(settings.output, settings=recorded, n_images=len(items), source=source)
    return scores


def make_word_pack(scores: Scores, folder: str) -> Pack:
    """Makes of scores of words all that the page needs, beside the model, and renews its card.

    Args:
        scores: Scores of :func:`score_words`, as they were read from their folder.
        folder: Folder of the model.

    Raises:
        ValueError: If the scores have no contexts, or are of another model.
    """
    if scores.contexts is None:
        raise ValueError("the scores are not of words: make them with `cbsae score --words`")
    facts = {name: dict(scores.summary[name]) for name in ("model", "encoder", "judge", "naming")}
    revision = folder_revision(folder)
    if facts["model"].get("revision") not in (None, revision):
        raise ValueError(f"the scores are of another model, {facts['model']['revision']}, not of {revision}")
    facts["model"]["revision"] = revision
    info = {
        **facts,
        "images": {**scores.summary["source"], "n": scores.summary["n_images"]},
        "concepts": scores.summary["concepts"],
        "grid": None,
        "scores": plain({name: part for name, part in scores.summary.items() if name in MEASURED}),
    }
    examples = pd.DataFrame(columns=["neuron", "strip", "rank", "image", "activation"])
    images = pd.DataFrame(columns=list(StoredImage._fields))
    nothing = np.zeros((0, 1), np.uint8), np.zeros((0, 1), np.float16)
    Pack.write(folder, info, scores.neurons, examples, images, *nothing, contexts=scores.contexts)
    write_card(folder)
    return Pack.from_pretrained(folder)
