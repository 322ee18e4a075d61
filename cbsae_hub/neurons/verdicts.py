"""The worth of a neuron's name: strong or weak, and why.

The truth decides where the neuron table has it: labels of images, which the judge that named the neurons never saw.
Elsewhere the name's own figures have to do. docs/metrics.md tells where the thresholds come from.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple, Protocol

from cbsae_hub.words import name_key

STRONG, WEAK = "strong", "weak"
# Average precision from which a neuron finds a label: nine in ten of those find it best on other images too.
FINDS = 0.3
HINTS = 0.15  # average precision from which a neuron finds something: a name that is no label has to go with it
PERCENTILE = 0.99  # a name is no chance if fewer than 1 % of neurons that know nothing score as high
FITS = 0.9  # interpretability, and ...
LEAD = 0.1  # ... the share of its score by which the name leads the second: 95 % of such names are the truth


class Verdict(NamedTuple):
    """``kind``, "strong" or "weak", and the ``reason``: a clause that tells of the neuron, without a full stop."""

    kind: str
    reason: str

    @property
    def strong(self) -> bool:
        """True if the neuron stands for the concept."""
        return self.kind == STRONG


class NeuronRow(Protocol):
    """A row of the neuron table, as far as verdicts need it; other columns may be missing."""

    @property
    def neuron(self) -> int:
        """Its number."""

    @property
    def names(self) -> Sequence[str]:
        """Its names, best first."""

    @property
    def scores(self) -> Sequence[float]:
        """Their scores."""


class Verdicts:
    """Verdicts on neurons, rows of a neuron table: whether they stand for a concept. Missing columns say nothing."""

    def __init__(self, rows: Iterable[NeuronRow]):
        self._key = cache(name_key)  # neurons share their names
        self._labels = {self._key(truth) for row in rows if (truth := _text(row, "truth"))}

    def of(self, row: NeuronRow, concept: str) -> Verdict:
        """The verdict on a neuron as one that stands for one of its names, or for what it was trained for."""
        key, first = self._key(concept), row.names[0] if len(row.names) else ""
        trained, first_name = self._key(_text(row, "designated")) == key, self._key(first) == key
        if trained and _number(row, "added") == 1:
            return _of_added(row, first, first_name)
        if not trained and not first_name:
            return Verdict(WEAK, f"“{concept}” is not what fits it best, “{first}” is")
        truth, precision = _text(row, "truth"), _number(row, "truth_ap")
        if self._key(truth) == key and precision >= FINDS:
            return Verdict(STRONG, _finds_best(concept, precision))
        if self._key(truth) == key:
            return Verdict(WEAK, f"{_finds_best(concept, precision)}: strong ones have {FINDS} or more")
        if truth and (key in self._labels or precision >= HINTS):
            own = _number(row, "designated_ap") if trained else math.nan
            beside = "" if math.isnan(own) else f", “{concept}” with {own:.2f}"
            return Verdict(WEAK, _finds_best(truth, precision) + beside)
        if not first_name:
            return Verdict(WEAK, f"it was trained for it, but found to fire on {f'“{first}”' if first else 'nothing'}")
        return _of_name(row)


def _finds_best(label: str, precision: float) -> str:
    best = f"“{label}” is what it finds best, with an average precision of {precision:.2f}"
    return f"on images whose content is known, {best}"


def _of_added(row: NeuronRow, first: str, first_name: bool) -> Verdict:
    """Judges a neuron that was added to a pack; its ``null_percentile`` is the share of concepts that fit less."""
    share = _number(row, "null_percentile")
    if not first:
        return Verdict(WEAK, "it was trained for it, but never fires")
    if not share >= PERCENTILE:
        better = f"finds {1 - share:.0%} of all concepts to fit better what it fires on, most of all “{first}”"
        why = "perhaps no picture shows it, or the teacher does not know the word"
        return Verdict(WEAK, f"it was trained for it, but the judge {better}: {why}")
    if not first_name:
        return Verdict(WEAK, f"it was trained for it, but the judge finds “{first}” to fit better what it fires on")
    return Verdict(STRONG, "it was trained for it, and the judge finds nothing to fit better what it fires on")


def _of_name(row: NeuronRow) -> Verdict:
    """Judges a neuron without truth by its name alone."""
    share, fit = _number(row, "null_percentile"), _number(row, "interpretability")
    scores = [float(score) for score in row.scores[:2]]
    alone = "what the images show is not known, so this rests on the name alone"
    if math.isnan(share):
        return Verdict(WEAK, "how good a name chance would give it was not measured")
    if share < PERCENTILE:
        return Verdict(WEAK, f"{1 - share:.0%} of neurons with random images get a name that fits as well")
    if _text(row, "status") == "dense":
        return Verdict(WEAK, "it fires on more than 10 % of all patches, whatever they show")
    if fit < FITS:
        less = f"its name fits less well than strong ones do (interpretability {fit:.2f}, not {FITS})"
        return Verdict(WEAK, f"{less}: {alone}")
    if len(scores) > 1 and scores[0] - scores[1] < LEAD * scores[0]:
        return Verdict(WEAK, f"“{row.names[1]}” fits it nearly as well: {alone}")
    return Verdict(STRONG, f"its name fits well, and no other comes near: {alone}")


def _text(row: NeuronRow, column: str) -> str:
    value = getattr(row, column, None)
    return value if isinstance(value, str) else ""


def _number(row: NeuronRow, column: str) -> float:
    value = getattr(row, column, None)
    return math.nan if value is None else float(value)
