"""Finds neurons by the words of their names."""

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from cbsae_hub.neurons.verdicts import STRONG, WEAK, NeuronRow, Verdict, Verdicts
from cbsae_hub.words import closest_names, has_part, name_key, words_of

EXACT, SAME_WORDS, CONTAINS, PREFIX, TYPO = 1.0, 0.95, 0.75, 0.6, 0.5


@dataclass(frozen=True)
class Match:
    """A neuron that stands for a concept.

    Attributes:
        neuron: Its number.
        concept: The name that matched.
        rank: 0 if it is the neuron's first name, 1 the second, ...
        match: 0..1, how well the query's words fit the concept's.
        score: The neuron's score for that name; NaN of a concept that it was trained for, if that is not known.
        verdict: "strong" if all words match and :class:`cbsae_hub.neurons.verdicts.Verdicts` finds the neuron to
            stand for the concept; else "weak".
        reason: Why, as a clause that tells of the neuron.
    """

    neuron: int
    concept: str
    rank: int
    match: float
    score: float
    verdict: str
    reason: str = ""


def _order(match: Match) -> tuple[float, bool, int, float, int]:
    score = -math.inf if math.isnan(match.score) else match.score
    return -match.match, match.verdict != STRONG, match.rank, -score, match.neuron


class ConceptIndex:
    """An index over the names in rows of a neuron table; a look-up costs the number of concepts, not of neurons."""

    def __init__(self, rows: Iterable[NeuronRow]):
        rows = list(rows)
        verdicts = Verdicts(rows)
        self._owners: dict[str, list[tuple[int, int, float, Verdict]]] = defaultdict(list)
        for row in rows:
            for rank, (name, score) in enumerate(zip(row.names, row.scores)):
                self._owners[name].append((row.neuron, rank, float(score), verdicts.of(row, name)))
            # A concept neuron is found by what it was trained for, even if it was found to fire on something else.
            trained_for = getattr(row, "designated", None)
            if isinstance(trained_for, str) and name_key(trained_for) not in map(name_key, row.names):
                score = float(getattr(row, "designated_score", math.nan))
                self._owners[trained_for].append((row.neuron, len(row.names), score, verdicts.of(row, trained_for)))
        self.concepts = {name: words_of(name) for name in self._owners}
        self._keys = {name: name_key(name) for name in self._owners}
        self._vocabulary = sorted({word for words in self.concepts.values() for word in words})

    def find(self, query: str) -> list[Match]:
        """Neurons whose names fit the query, best first: by match, strong ones first, by the name's rank, by score."""
        words = words_of(query)
        if not words:
            return []
        matches = [
            Match(neuron, concept, rank, match, score, *self._verdict(concept, match, verdict))
            for concept, match in self._matching(query, words).items()
            for neuron, rank, score, verdict in self._owners[concept]
        ]
        return sorted(matches, key=_order)

    def spelled_like(self, query: str, count: int) -> list[str]:
        """Concepts whose spelling is closest to the query."""
        return closest_names(query, self.concepts, count)

    def _matching(self, query: str, words: list[str]) -> dict[str, float]:
        if matches := self._by_words(query, words):
            return matches
        # No word is known: perhaps they are mistyped.
        corrected = [next(iter(difflib.get_close_matches(w, self._vocabulary, 1, cutoff=0.8)), w) for w in words]
        if corrected == words:
            return {}
        return {concept: TYPO * match for concept, match in self._by_words(query, corrected).items()}

    def _by_words(self, query: str, words: list[str]) -> dict[str, float]:
        matches, key = {}, name_key(query)
        for concept, own in self.concepts.items():
            if self._keys[concept] == key:
                match = EXACT
            elif sorted(own) == sorted(words):
                match = SAME_WORDS
            elif common := set(own) & set(words):
                match = CONTAINS * 2 * len(common) / (len(own) + len(words))
            elif any(has_part(one, word) for word in words for one in own):
                match = PREFIX / max(len(own), len(words))
            else:
                continue
            matches[concept] = match
        return matches

    @staticmethod
    def _verdict(concept: str, match: float, verdict: Verdict) -> Verdict:
        """The verdict on the neuron, if all words match."""
        return verdict if match >= SAME_WORDS else Verdict(WEAK, f"“{concept}” has not all of these words, or others")
