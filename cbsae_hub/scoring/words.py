"""One pass over texts through a text encoder and its SAE: what neurons do, and the words on which they fire."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.extraction import ItemSource
from cbsae_hub.encoders.language import LanguageEncoder
from cbsae_hub.encoders.passages import Passage
from cbsae_hub.encoders.text import TextEncoder
from cbsae_hub.metrics import TopImages, to_unit_interval
from cbsae_hub.metrics.activity import NeuronActivity, Reconstruction
from cbsae_hub.metrics.words import Words, WordScore
from cbsae_hub.models import CBSAE, SAE, SparseLatents
from cbsae_hub.neurons.table import rows_of
from cbsae_hub.scoring.report import SURE, activity_columns, describe, mean
from cbsae_hub.scoring.scores import Scores

NAMES = 5
CONTEXTS = 16  # texts of a neuron that are kept
AROUND = 90  # characters of a text on either side of the token on which a neuron fires most
NO_WORD = "<no word>"  # of the marks of a text's start and end, and of padding
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’\-][\p{L}\p{M}\p{N}]+)*|<[a-z]+>")


def words_of(passage: Passage) -> tuple[list[int], list[str]]:
    """The word of a text that each of its rows is a part of.

    Returns:
        For each row the place of its word in the second list, and the words in small letters, as they come in the
        text. A token that is part of no word, such as a comma, is a word of its own.
    """
    matches = list(_WORD.finditer(passage.text))
    ends = np.array([match.end() for match in matches])
    rows: list[int] = []
    words: list[str] = []
    places: dict[tuple[int, int], int] = {}
    for start, stop in passage.spans:
        place = int(np.searchsorted(ends, start, side="right"))
        match = matches[place] if place < len(matches) and matches[place].start() < stop else None
        key = (match.start(), match.end()) if match else (start, stop)
        text = passage.text[slice(*key)].strip().casefold() or NO_WORD
        if key not in places:
            places[key] = len(words)
            words.append(text)
        rows.append(places[key])
    return rows, words


class WordScorer:
    """Scores and names of the neurons of a text encoder or a language model, over a stream of texts.

    Args:
        sae: The SAE.
        encoder: The encoder that it explains, see :func:`cbsae_hub.encoders.explained_tower`.
        seed: Of the words at random that tell what a name is worth.

    Raises:
        ValueError: If the encoder gives activations of another width, or of tokens at random.
    """

    def __init__(self, sae: SAE | CBSAE, encoder: TextEncoder | LanguageEncoder, seed: int = 0):
        if encoder.d_in != sae.d_in:
            raise ValueError(f"the encoder gives activations of width {encoder.d_in}, the SAE wants {sae.d_in}")
        if encoder.tokens.startswith("random:"):
            raise ValueError(f"the encoder draws tokens at random ({encoder.tokens}): score with explained_tower's")
        self.sae, self.encoder = sae, encoder
        self.activity, self.reconstruction = NeuronActivity(sae.d_latent), Reconstruction(sae.d_in)
        self.names, self.chance = WordScore(sae.d_latent), WordScore(sae.d_latent)
        self.top = TopImages(sae.d_latent, CONTEXTS)
        self.vocabulary: dict[str, int] = {}
        self.texts = 0
        self._l0 = torch.zeros(sae.d_latent + 1, dtype=torch.int64)
        self._shuffles = torch.Generator().manual_seed(seed)

    def run(self, items: ItemSource, batch_size: int = 64) -> Scores:
        """Scores all neurons on some texts or questions, ``batch_size`` at once."""
        starts = range(0, len(items), batch_size)
        for start in tqdm(starts, desc="words", unit="batch"):
            self.update(items.items(start, min(start + batch_size, len(items))))
        return self.results(items, batch_size)

    @torch.no_grad()
    def update(self, items: Sequence[Any]) -> None:
        """Adds texts, whose numbers go on from those of the last batch."""
        numbers = self.texts + torch.arange(len(items))
        self.texts += len(items)
        passages, x, values, owners = self._latents(items)
        lengths = [len(passage.spans) for passage in passages]
        if not len(x):  # all texts are empty
            self.top.update(torch.zeros(len(items), self.sae.d_latent).to_sparse(), numbers)
            return
        decoded = self.sae.decode_sparse(values, owners, like=x).cpu()
        active = SparseLatents(*(part.cpu() for part in self.sae.only_active(SparseLatents(values, owners))))
        count = (active.values != 0).sum(-1)
        self.activity.update(*active)
        self.reconstruction.update(x.cpu(), decoded, count)
        self._l0 += torch.bincount(count, minlength=len(self._l0))
        rows, words = self._words(passages)
        self.names.update(active.values, active.indices, rows, words)
        self.chance.update(active.values, active.indices, rows, words[self._permutation(len(words))])
        number = torch.arange(len(items)).repeat_interleave(torch.tensor(lengths))
        self.top.update(_strongest(active, number, len(items), self.sae.d_latent), numbers)

    def results(self, items: ItemSource, batch_size: int = 64) -> Scores:
        """The scores of the texts so far, with the contexts of every neuron.

        Args:
            items: The texts that were given, which are read again where a neuron's strongest activations are.
            batch_size: Texts at once.

        Raises:
            ValueError: If there were no texts, or only empty ones.
        """
        if not self._l0.any():
            raise ValueError("there are no texts to name neurons by, or all are empty")
        density = self.top.fired / self.texts
        activations, ids = self.top.compute()
        frame = self._table(self.names.compute(NAMES), self.chance.compute(1), density, activations, ids)
        contexts = self._contexts(items, activations, ids, batch_size)
        by_chance = self.chance.compute(1).scores[density > 0, 0]
        return Scores(frame, None, self._summary(frame, by_chance), contexts=contexts)

    def _latents(self, items: Sequence[Any]) -> tuple[list[Passage], Tensor, Tensor, Tensor]:
        """Passages, activations ``[rows, d_in]`` and latents ``[rows, K]`` of some items, one after the other."""
        inputs: Any = self.encoder.prepare(items)
        if isinstance(self.encoder, LanguageEncoder) and self.encoder.answers_too:
            inputs = self.encoder.answered(inputs)  # once for both of what follows
        x = torch.cat(self.encoder(inputs))
        values, owners = self.sae.encode_sparse(x) if len(x) else SparseLatents(x[:, :0], x[:, :0].long())
        return self.encoder.passages(inputs), x, values, owners

    def _words(self, passages: Sequence[Passage]) -> tuple[Tensor, Tensor]:
        """The word of a text that each row is a part of ``[rows]``, and the words' ids ``[occurrences]``."""
        rows: list[int] = []
        ids: list[int] = []
        for passage in passages:
            own, words = words_of(passage)
            rows += [len(ids) + place for place in own]
            ids += [self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words]
        return torch.tensor(rows, dtype=torch.int64), torch.tensor(ids, dtype=torch.int64)

    def _permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self._shuffles)

    def _table(self, naming: Words, chance: Words, density: Tensor, activations: Tensor, ids: Tensor) -> pd.DataFrame:
        words, alive = list(self.vocabulary), density.numpy() > 0
        names = [[words[i] for i in row if i >= 0] for row in naming.words.tolist()]
        best = naming.scores[:, 0].numpy()
        by_chance = np.sort(chance.scores[torch.from_numpy(alive), 0].numpy())
        percentile = np.searchsorted(by_chance, best, side="left") / max(1, len(by_chance))
        neurons = np.arange(len(best))
        return rows_of({
            "neuron": neurons,
            "kind": np.where(neurons < self.sae.d_sae, "sae", "cb"),
            "name": [row[0] if row else None for row in names],
            "score": best,
            "interpretability": to_unit_interval(np.where(alive, best, np.nan)),
            "null_percentile": np.where(alive, percentile, 0.0),
            "names": names,
            "scores": [row[: len(own)] for row, own in zip(naming.scores.tolist(), names)],
            "top_images": [[i for i, z in zip(*pair) if z > 0] for pair in zip(ids.tolist(), activations.tolist())],
            "group": self.sae.group_of.cpu().numpy(),
            **activity_columns(self.activity.compute(), density),
        })  # fmt: skip

    def _contexts(self, items: ItemSource, activations: Tensor, ids: Tensor, batch_size: int) -> pd.DataFrame:
        """The strongest places of every neuron: rows of contexts.parquet."""
        places: dict[int, list[tuple[int, int]]] = {}  # by text: neurons and ranks
        for neuron, rank in (activations > 0).nonzero().tolist():
            places.setdefault(int(ids[neuron, rank]), []).append((neuron, rank))
        numbers = sorted(places)
        contexts: list[dict[str, Any]] = []
        for start in tqdm(range(0, len(numbers), batch_size), desc="contexts", unit="batch"):
            batch = numbers[start : start + batch_size]
            read = [items.items(number, number + 1)[0] for number in batch]
            for number, passage, latents in zip(batch, *self._parted(read)):
                contexts += [
                    {"neuron": neuron, "rank": rank, "text": number, **context_of(passage, latents[neuron])}
                    for neuron, rank in places[number]
                    if neuron in latents
                ]
        columns = ["neuron", "rank", "text", "activation", "passage", "starts", "stops", "strengths"]
        return pd.DataFrame(contexts, columns=columns).sort_values(["neuron", "rank"], ignore_index=True)

    @torch.no_grad()
    def _parted(self, items: Sequence[Any]) -> tuple[list[Passage], Iterator[dict[int, np.ndarray]]]:
        """Passages of texts, and for each text the activations of the neurons that fire in it, ``[rows]``."""
        passages, _, values, owners = self._latents(items)
        active = SparseLatents(*(part.cpu() for part in self.sae.only_active(SparseLatents(values, owners))))
        lengths = [len(passage.spans) for passage in passages]
        parts = zip(active.values.split(lengths), active.indices.split(lengths))

        def by_neuron(values: Tensor, indices: Tensor) -> dict[int, np.ndarray]:
            latents: dict[int, np.ndarray] = {}
            for row, column in (values > 0).nonzero().tolist():
                own = latents.setdefault(int(indices[row, column]), np.zeros(len(values), np.float32))
                own[row] = float(values[row, column])
            return latents

        return passages, (by_neuron(*part) for part in parts)

    def _summary(self, frame: pd.DataFrame, by_chance: Tensor) -> dict[str, Any]:
        sae, last = self.sae, int(self._l0.nonzero().max())
        alive = frame["status"] != "dead"
        return {
            "model": {"class": type(sae).__name__, "d_in": sae.d_in, "d_sae": sae.d_sae,
                      "concepts": sae.d_latent - sae.d_sae, "activation": sae.activation, "k": sae.k,
                      "group_sizes": sae.group_sizes, "revision": sae.revision},
            "encoder": self.encoder.provenance(),
            "judge": {"id": None, "revision": None},
            "naming": {"method": "words"},
            "concepts": {"name": None, "sha256": None, "names": []},
            "reconstruction": self.reconstruction.compute(),
            "shares": {state: mean(frame["status"] == state) for state in ("dead", "rare", "dense", "alive")},
            "l0": {"histogram": {"edges": list(range(last + 2)), "counts": self._l0[: last + 1].tolist()},
                   "patch_map": None},
            "interpretability": {"mean_score": mean(frame.loc[alive, "score"]), "sure": SURE,
                                 "mean_score_of_chance": mean(by_chance.numpy()),
                                 "share_above_chance": mean(frame["null_percentile"] >= SURE)},
            "coverage": {},
            "monosemanticity": {"population": float("nan"), **describe(frame["monosemanticity"]), "by_group": []},
        }  # fmt: skip


def context_of(passage: Passage, latents: np.ndarray) -> dict[str, Any]:
    """The part of a text around the token on which a neuron fires most, and where else in it the neuron fires.

    Args:
        passage: The text.
        latents: The neuron's activation on each row, ``[rows]``.

    Returns:
        ``activation``, the largest; ``passage``, the part; and ``starts``, ``stops``, ``strengths`` of the tokens in it
        on which the neuron fires.
    """
    best = int(latents.argmax())
    low, high = max(0, passage.spans[best][0] - AROUND), passage.spans[best][1] + AROUND
    places = [
        (max(start, low) - low, min(stop, high) - low, float(latents[row]))
        for row, (start, stop) in enumerate(passage.spans)
        if latents[row] > 0 and stop > low and start < high
    ]
    starts, stops, strengths = (list(column) for column in zip(*places)) if places else ([], [], [])
    return {"activation": float(latents[best]), "passage": passage.text[low:high], "starts": starts, "stops": stops,
            "strengths": strengths}  # fmt: skip


def _strongest(active: SparseLatents, texts: Tensor, count: int, neurons: int) -> Tensor:
    """The largest activation of each neuron in each text, sparse ``[texts, neurons]``.

    Args:
        active: Latents of tokens, ``[tokens, K]``.
        texts: The text of each token, ``[tokens]``.
        count: Number of texts.
        neurons: Number of neurons.
    """
    fires = active.values > 0
    pairs, where = (texts[:, None] * neurons + active.indices)[fires].unique(return_inverse=True)
    largest = torch.zeros(len(pairs)).scatter_reduce_(0, where, active.values[fires].float(), "amax")
    indices = torch.stack([pairs // neurons, pairs % neurons])
    return torch.sparse_coo_tensor(indices, largest, (count, neurons), is_coalesced=True, check_invariants=False)
