"""Words and neurons of the shipped models, picked by rule from their packs: other weights need no other tests."""

import json
import re
from functools import cache
from typing import Any

from workplace import ROOT

from cbsae_hub import Pack
from cbsae_hub.models.base import WORKED_NAME
from cbsae_hub.neurons.search import Match

CBSAE, SAE = "emoji-cbsae", "emoji-sae"
MISSING = "zeppelin"  # no concept of Emoji World


@cache
def pack_of(model: str = CBSAE) -> Pack:
    return Pack.from_pretrained(ROOT / "hub" / model)


@cache
def matches(model: str = CBSAE) -> dict[str, Match]:
    """The best neuron of each concept of one word that some neuron is named after or trained for, by that concept."""
    found = {word: (pack_of(model).neurons.find(word, 1) or [None])[0] for word in pack_of(model).vocabulary}
    return {word: one for word, one in found.items() if one and one.match == 1.0 and one.concept == word and word.isalpha()}


def _best(model: str, chosen) -> str:
    """Of the words whose neuron is chosen, that with the best score: by the pack's rule, not by a test's need."""
    rows = pack_of(model).neurons
    words = [word for word, one in matches(model).items() if chosen(word, one, rows[one.neuron])]
    assert words, f"{model} has no such word any more: choose another rule in known_words.py"
    return max(words, key=lambda word: matches(model)[word].score)


@cache
def strong_word(model: str = CBSAE) -> str:
    """A word with a neuron of the SAE that surely stands for it, and is named so."""
    return _best(model, lambda word, one, row: one.verdict == "strong" and row.kind == "sae" and row.name == word)


@cache
def weak_word(model: str = CBSAE) -> str:
    """A word that is the name of a neuron of the SAE that finds something else best."""
    return _best(
        model,
        lambda word, one, row: one.verdict == "weak" and row.kind == "sae" and row.truth not in (None, word)
        and f"“{row.truth}” is what it finds best" in one.reason,
    )  # fmt: skip


@cache
def trained_word(model: str = CBSAE) -> str:
    """A concept of the bottleneck whose neuron surely stands for it."""
    return _best(model, lambda word, one, row: one.verdict == "strong" and row.kind == "cb")


def neuron_of(word: str, model: str = CBSAE) -> Any:
    """The best neuron of a word."""
    return pack_of(model).neurons[matches(model)[word].neuron]


@cache
def speaking_neuron(kind: str = "sae", model: str = CBSAE) -> Any:
    """The neuron of a strong word that, set alone, makes LLaVA say the word: the best named of them."""
    word = _best(
        model, lambda word, one, row: one.verdict == "strong" and row.kind == kind and row.said_unit == word
    )  # fmt: skip
    return neuron_of(word, model)


def worked(kind: str, model: str = CBSAE) -> dict:
    """A worked example of the page."""
    return json.loads((ROOT / "hub" / model / WORKED_NAME).read_text(encoding="utf-8"))[kind]


def number_of_neurons(model: str = CBSAE) -> int:
    return len(pack_of(model).neurons)


def misspelt(word: str) -> str:
    """A word that no neuron is called, with its last letter twice."""
    return re.sub(r"(.)$", r"\1\1", word)
