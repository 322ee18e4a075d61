"""Do neurons answer to one thing, and to nothing else? Pairs of images that differ in exactly one thing say.

Four scores of an SAE beside raw neurons, random directions and an untrained SAE, concept by concept: the best coalition
of neurons for a concept, whether it switches where the concept changes, the neuron that writes along its true
direction, and what a push along a neuron damages. docs/metrics.md defines them.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.metrics import (
    CollateralDamage,
    CollateralScores,
    ConceptProbes,
    coalition_activity,
    coalitions,
    direction_scores,
    switches,
    true_directions,
)
from cbsae_hub.metrics.coalitions import MOST
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.truth import MIN_IMAGES, Truth
from cbsae_hub.studies.clip_sweep import draw
from cbsae_hub.studies.pair_models import CALIBRATED, TRUE, Candidate, active_parts, candidates, observe


@dataclass(frozen=True)
class PairLabels:
    """Labels of images and of pairs, of the concepts that some pair changes.

    Attributes:
        concepts: The (family, name) of each column.
        images: ``[images, concepts]`` bool.
        before: Rows of the first images of the pairs; ``after`` those of the second.
        changes: ``[pairs, concepts]``: 1 where the concept comes, -1 where it goes, 0 where it does not change.
        kinds: What changes in each pair.
    """

    concepts: list[tuple[str, str]]
    images: np.ndarray
    before: np.ndarray
    after: np.ndarray
    changes: np.ndarray
    kinds: list[str]

    @classmethod
    def read(
        cls, images: ImageDataset, pairs: ImageDataset, families: Mapping[str, str], min_images: int = MIN_IMAGES
    ) -> "PairLabels":
        """Reads the labels.

        Args:
            images: Labelled images.
            pairs: Images with the same columns of labels, with a column ``pair``, a number that two rows share, and
                ``change``, the name of what is different.
            families: Kinds of labels, see :class:`Truth`.
            min_images: Labels on fewer of the labelled images are left out.

        Raises:
            ValueError: If a column is missing, a pair has not two rows, or no pair changes a label of the images.
        """
        truth, of_pairs = Truth.read(images, families, min_images), Truth.read(pairs, families, 1)
        before, after = _sides(pairs)
        column = {label: i for i, label in enumerate(of_pairs.labels)}
        shared = [i for i, label in enumerate(truth.labels) if label in column]
        matrix = of_pairs.matrix[:, [column[truth.labels[i]] for i in shared]].astype(np.int64)
        changes = matrix[after] - matrix[before]
        changed = np.flatnonzero(changes.any(0))
        if len(changed) < 2:
            raise ValueError(
                f"the pairs change {len(changed)} labels that are on {min_images} of the labelled images or more: give "
                "pairs and images of the same concepts, at least two"
            )
        columns = [shared[i] for i in changed]
        kinds = [pairs["change"][int(row)] for row in before]
        concepts = [truth.labels[i] for i in columns]
        return cls(concepts, truth.matrix[:, columns], before, after, changes[:, changed], kinds)


def _sides(pairs: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    try:
        numbers = np.asarray(pairs["pair"])
        pairs["change"]
    except (KeyError, ValueError) as error:
        raise ValueError("images of pairs need the columns `pair` and `change`") from error
    order = np.argsort(numbers, kind="stable")
    counts = np.unique(numbers, return_counts=True)[1]
    if (counts != 2).any():
        raise ValueError(f"{(counts != 2).sum()} numbers of the column `pair` do not stand in two rows")
    return order[::2], order[1::2]


class PairStudy:
    """The study of one SAE. Images are looked at when it is made; :meth:`score` then scores one model.

    Args:
        sae: The SAE.
        encoder: The encoder that it explains, with its tokens; needs an embedding, which probes read.
        images: Labelled images, on which coalitions are found and probes are fitted.
        pairs: See :meth:`PairLabels.read`.
        families: Kinds of labels, likewise.
        seeds: Seeds of the controls that are random.
        most: Largest number of neurons in a coalition.
        steered: How many of the labelled images are steered, once for each concept that they do not show.
        strength: Length of the push that steers, in median lengths of a token's activation.
        batch: Images at once.
        min_images: See :meth:`PairLabels.read`.
        seed: Seed of the halves, the steered images and the bootstrap.

    Attributes:
        labels: Labels of images and pairs.
        candidates: The models: the SAE, its controls, and the true directions.

    Raises:
        ValueError: See :meth:`PairLabels.read`; or there are fewer images than ``steered``, or no embedding.
    """

    def __init__(
        self,
        sae: SAE | CBSAE,
        encoder: VisionEncoder,
        images: ImageDataset,
        pairs: ImageDataset,
        families: Mapping[str, str],
        *,
        seeds: Sequence[int] = (0, 1, 2),
        most: int = MOST,
        steered: int = 16,
        strength: float = 1.0,
        batch: int = 64,
        min_images: int = MIN_IMAGES,
        seed: int = 0,
    ):
        encoder.require_embedding()
        self.encoder, self.most, self.strength, self.seed = encoder, most, strength, seed
        self.labels = PairLabels.read(images, pairs, families, min_images)
        self._steered = draw(steered, len(images), "steered", seed)
        rows = range(min(CALIBRATED, len(images)))
        sample = encoder([images[row]["image"] for row in rows], seeds=list(rows))
        models = candidates(sae, encoder.layer, sample, seeds)
        saes = {one.key: one.sae for one in models if one.sae is not None}
        self._images = observe(encoder, images, saes, "images", batch=batch, embed=True)
        self._pairs = observe(encoder, pairs, saes, "pairs", batch=batch)
        of_sae = self._images.latents[models[0].key][:, : sae.d_sae]
        self._density = float((of_sae > 0).mean())
        before, after = (self._pairs.means[rows] for rows in (self.labels.before, self.labels.after))
        self._directions = true_directions(before, after, torch.from_numpy(self.labels.changes))
        units = torch.nn.functional.normalize(self._directions, dim=1).float()
        self.candidates = [*models, Candidate(TRUE, 0, units)]
        self._probes = ConceptProbes(len(self.labels.concepts), self._images.embeddings.shape[1])
        self._probes.update(self._images.embeddings, torch.from_numpy(self.labels.images))
        pictures = [images[row]["image"] for row in self._steered]
        with torch.no_grad():
            self._activations = encoder.site.read(lambda: encoder.model(encoder.pixel_values(pictures))).float()

    def score(self, model: Candidate) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Scores a model.

        Returns:
            One row per concept: ``model``, ``seed``, ``family``, ``concept``, ``members`` (neurons), and the measures
            of :mod:`cbsae_hub.studies.pair_tables` with their levels of chance. And one row per pair: ``model``,
            ``seed``, ``change``, ``right`` (share of its concepts whose coalition switches rightly) and ``others``
            (number of other concepts whose coalition switches).
        """
        images, pairs = self._latents(model)
        labels, changes = self.labels.images, self.labels.changes
        groups = coalitions(images, labels, self.most, self.seed)
        on = coalition_activity(pairs, groups.members)
        before, after = on[self.labels.before], on[self.labels.after]
        switched = switches(*(torch.from_numpy(part) for part in (before, after, changes)))
        entries = images.tocoo()
        places = torch.from_numpy(np.stack([entries.row, entries.col]))
        latents = torch.sparse_coo_tensor(places, entries.data, entries.shape, check_invariants=False)
        matched = direction_scores(model.rows, self._directions, latents, torch.from_numpy(labels))
        steered = self._steer(model, groups.members)
        common = {"model": model.name, "seed": model.seed}
        concepts = pd.DataFrame(
            {
                **common,
                "family": [family for family, _ in self.labels.concepts],
                "concept": [name for _, name in self.labels.concepts],
                "members": groups.members,
                "coalition": groups.score,
                "coalition_chance": groups.chance,
                "switch": switched.score,
                "switch_chance": switched.chance,
                "right": switched.right,
                "precise": switched.precise,
                "still": switched.still,
                "cosine": matched.cosine,
                "f1": matched.f1,
                "f1_chance": matched.chance,
                "selectivity": steered.selectivity,
                "selectivity_chance": steered.chance,
                "effect": steered.effect,
                "damage": steered.damage,
            }
        )
        moves = after.astype(np.int64) - before
        changed = changes != 0
        with np.errstate(invalid="ignore"):
            right = ((moves == changes) & changed).sum(1) / changed.sum(1)
        others = ((moves != 0) & ~changed).sum(1)
        return concepts, pd.DataFrame({**common, "change": self.labels.kinds, "right": right, "others": others})

    def _latents(self, model: Candidate) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Image-level latents of the labelled images and of those of the pairs."""
        looks = self._images, self._pairs
        if model.sae is None:
            images, pairs = ((look.means @ model.rows.T).numpy() for look in looks)
            return active_parts(images, pairs, self._density)
        first, second = (look.latents[model.key] for look in looks)
        if not isinstance(model.sae, CBSAE):
            return first, second
        start = model.sae.d_sae  # from here on neurons are signed
        concepts = active_parts(first[:, start:].toarray(), second[:, start:].toarray(), self._density)
        both = [sparse.hstack([part[:, :start], own], "csr") for part, own in zip((first, second), concepts)]
        return both[0], both[1]

    @torch.no_grad()
    def _steer(self, model: Candidate, members: Sequence[Sequence[int]]) -> CollateralScores:
        """Pushes images along the first neuron of each coalition; concepts without one are not affected."""
        probes, shows = self._probes.compute(), self.labels.images[self._steered]
        plain = probes(self.encoder.embed_from(self._activations).cpu())
        length = self.strength * self.encoder.select(self._activations).norm(dim=-1).median()
        metric = CollateralDamage(len(members))
        for concept, group in enumerate(members):
            rows = np.flatnonzero(~shows[:, concept])
            if not len(rows):
                continue
            steered = plain[rows]
            if group:
                v = self._activations[rows]
                push = length * model.rows[group[0]].to(v)
                edited = self.encoder.on_tokens(functools.partial(torch.add, push))(v)
                steered = probes(self.encoder.embed_from(edited).cpu())
            metric.update(plain[rows], steered, torch.full((len(rows),), concept))
        return metric.compute()
