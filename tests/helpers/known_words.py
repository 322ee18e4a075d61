"""Words and neurons of the shipped models, picked by rule from their packs: other weights need no other tests."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from workplace import ROOT

from cbsae_hub import Pack
from cbsae_hub.models.base import WORKED_NAME
from cbsae_hub.neurons.search import Match

CBSAE_NAME, SAE_NAME = "emoji-cbsae", "emoji-sae"
Rule = Callable[[str, Match, Any], bool]  # of a word, its best match, and the row of that neuron


@cache
def pack_of(model: str = CBSAE_NAME) -> Pack:
    return Pack.from_pretrained(ROOT / "hub" / model)


@cache
def _known(model: str) -> dict[str, Match]:
    """The best neuron of each concept that has one by its very name; of one word, and part of no other concept's name.

    Best scores come first.
    """
    pack = pack_of(model)
    alone = [word for word in pack.vocabulary if word.isalpha() and sum(word in one for one in pack.vocabulary) == 1]
    best = {word: pack.neurons.find(word, 2) for word in alone}
    known = {word: found[0] for word, found in best.items() if len(found) == 2 and found[0].concept == word}
    return dict(sorted(known.items(), key=lambda item: -item[1].score))


def _words(model: str, rule: Rule) -> list[str]:
    words = [word for word, match in _known(model).items() if rule(word, match, pack_of(model).neurons[match.neuron])]
    assert words, f"{model} has no such word any more: known_words.py needs another rule"
    return words


def neuron_of(word: str, model: str = CBSAE_NAME) -> Any:
    """The row of the best neuron of a word."""
    return pack_of(model).neurons[_known(model)[word].neuron]


def strong_words(model: str = CBSAE_NAME) -> list[str]:
    """Words with a neuron of the SAE that surely stands for them and is named so; others come near."""
    return _words(model, lambda word, match, row: match.verdict == "strong" and row.kind == "sae" and row.name == word)


def strong_word(model: str = CBSAE_NAME) -> str:
    return strong_words(model)[0]


def weak_word(model: str = CBSAE_NAME) -> str:
    """A word that is the name of a neuron of the SAE that finds something else best."""
    reason = "“{}” is what it finds best"
    return _words(
        model,
        lambda word, match, row: (
            match.verdict == "weak"
            and row.kind == "sae"
            and row.truth != word
            and reason.format(row.truth) in match.reason
        ),
    )[0]


def trained_word(model: str = CBSAE_NAME) -> str:
    """A concept of the bottleneck whose neuron surely stands for it."""
    return _words(model, lambda word, match, row: match.verdict == "strong" and row.kind == "cb")[0]


def speaking_word(kind: str = "sae", model: str = CBSAE_NAME) -> str:
    """A word whose neuron, of the SAE ("sae") or the bottleneck ("cb"), makes LLaVA say it when it is set alone."""
    return _words(
        model, lambda word, match, row: row.kind == kind and row.name == word == row.said_unit and match.rank == 0
    )[0]


def worked(kind: str, model: str = CBSAE_NAME) -> dict[str, Any]:
    """A worked example of the page."""
    return json.loads((ROOT / "hub" / model / WORKED_NAME).read_text(encoding="utf-8"))[kind]
