"""Names of text neurons: the words on which they fire, and how well that is told by the word."""

from typing import NamedTuple

import torch
from torch import Tensor

from cbsae_hub.metrics.streaming import StreamingMetric

_LOW = 2**31  # a neuron and a word in one integer
COMPACT_FROM = 2**20  # entries from which what lies in several batches is added up


class Words(NamedTuple):
    """The words that suit each neuron best.

    Attributes:
        words: Their ids ``[neurons, count]``, best first; -1 where there are fewer.
        scores: Their scores; 0 likewise.
    """

    words: Tensor
    scores: Tensor


def word_scores(latents: Tensor, words: Tensor, count: int) -> Tensor:
    """Scores of all words for all neurons, from whole matrices.

    The score is the harmonic mean of two shares: that of a neuron's activation that lies on the word, and that of the
    word's occurrences on which the neuron fires. It is 1 where the neuron is the word's detector, and 0 where they have
    nothing to do with each other. The mean of precision and recall is van Rijsbergen's F (1979).

    Args:
        latents: ``[occurrences, neurons]``, the largest activation over the tokens of each word of a text.
        words: Id of the word, ``[occurrences]``.
        count: Number of words.

    Returns:
        ``[neurons, count]``.
    """
    latents = latents.double().clamp_min(0)
    which = torch.nn.functional.one_hot(words, count).double()
    precision = latents.T @ which / latents.sum(0)[:, None].clamp_min(1e-300)
    recall = (latents > 0).double().T @ which / which.sum(0).clamp_min(1)
    return _harmonic(precision, recall)


class WordScore(StreamingMetric):
    """:func:`word_scores` of a stream of batches; its memory grows with the pairs of neurons and words that meet.

    Args:
        neurons: Number of neurons.
    """

    total: Tensor
    keys: list[Tensor]
    weights: list[Tensor]
    fires: list[Tensor]
    word_ids: list[Tensor]
    word_counts: list[Tensor]

    def __init__(self, neurons: int):
        super().__init__()
        self.neurons = neurons
        self.add_sums(torch.float64, total=neurons)
        for name in ("keys", "weights", "fires", "word_ids", "word_counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._compact_at = COMPACT_FROM

    def update(self, values: Tensor, neurons: Tensor, occurrences: Tensor, words: Tensor) -> None:
        """Adds tokens.

        Args:
            values: Latents ``[tokens, K]``; what is not above 0 is inactive.
            neurons: The neurons that they belong to, ``[tokens, K]``.
            occurrences: The word of a text that each token is a part of, ``[tokens]``, from 0.
            words: Id of the word of each occurrence, ``[occurrences]``, below 2^31.
        """
        active = values > 0
        places = occurrences[:, None].expand_as(neurons)[active]
        # The largest activation of a neuron over the tokens of an occurrence.
        pairs, where = (neurons[active] * len(words) + places).unique(return_inverse=True)
        strongest = torch.zeros(len(pairs), dtype=torch.float64).scatter_reduce_(
            0, where, values[active].double(), "amax"
        )
        owners, place = pairs // max(1, len(words)), pairs % max(1, len(words))
        self.total.index_add_(0, owners, strongest)
        keys, where = (owners * _LOW + words[place]).unique(return_inverse=True)
        self.keys.append(keys)
        self.weights.append(torch.zeros(len(keys), dtype=torch.float64).index_add_(0, where, strongest))
        self.fires.append(torch.bincount(where, minlength=len(keys)))
        word_ids, counts = words.unique(return_counts=True)
        self.word_ids.append(word_ids)
        self.word_counts.append(counts)
        if sum(map(len, self.keys)) > self._compact_at:
            self._compact()
            self._compact_at = max(COMPACT_FROM, 2 * len(self.keys[0]))

    def compute(self, count: int = 5) -> Words:
        """The best ``count`` words of each neuron; of equal ones that with the lower id."""
        words, scores = torch.full((self.neurons, count), -1), torch.zeros(self.neurons, count, dtype=torch.float64)
        if not self.keys or not sum(map(len, self.keys)):
            return Words(words, scores)
        self._compact()
        owners, ids = self.keys[0] // _LOW, self.keys[0] % _LOW
        occurrences = torch.zeros(int(self.word_ids[0].max()) + 1, dtype=torch.float64)
        occurrences[self.word_ids[0]] = self.word_counts[0].double()
        precision = self.weights[0] / self.total[owners].clamp_min(1e-300)
        value = _harmonic(precision, self.fires[0] / occurrences[ids])
        order = value.argsort(descending=True, stable=True)
        order = order[owners[order].argsort(stable=True)]
        owners, ids, value = owners[order], ids[order], value[order]
        first = torch.searchsorted(owners, owners)  # where the neuron's words begin
        rank = torch.arange(len(owners)) - first
        fits = rank < count
        words[owners[fits], rank[fits]], scores[owners[fits], rank[fits]] = ids[fits], value[fits]
        return Words(words, scores)

    def _compact(self) -> None:
        keys, where = torch.cat(self.keys).unique(return_inverse=True)
        self.weights = [torch.zeros(len(keys), dtype=torch.float64).index_add_(0, where, torch.cat(self.weights))]
        self.fires = [torch.zeros(len(keys), dtype=torch.int64).index_add_(0, where, torch.cat(self.fires))]
        word_ids, places = torch.cat(self.word_ids).unique(return_inverse=True)
        counts = torch.zeros(len(word_ids), dtype=torch.int64).index_add_(0, places, torch.cat(self.word_counts))
        self.keys, self.word_ids, self.word_counts = [keys], [word_ids], [counts]


def _harmonic(precision: Tensor, recall: Tensor) -> Tensor:
    return 2 * precision * recall / (precision + recall).clamp_min(1e-300)
