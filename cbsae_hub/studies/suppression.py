"""Does an encoder answer better if features that follow a spurious attribute are suppressed?

After "Steering CLIP's vision transformer with sparse autoencoders" (Joseph et al., 2025), section 7.1, tables 1 and 5
to 8. Features are found on a training split, the threshold tau is chosen on a validation split, and accuracies are of a
test split. The methods:

- ``SAE features``: those whose mean on images with the attribute exceeds that on others by tau, set to zero;
- ``random SAE features``: as many, drawn among those that fire on the training split;
- ``raw neurons``: the same rule on the dimensions of the activations;
- ``random raw neurons``: as many of them, drawn;
- ``LEACE``: the attribute's linear direction projected out, if the rule of the choice allows it;
- ``LEACE, always``: the same, whatever the rule says;
- ``none``: no suppression.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.groups import GroupedImages, group_names
from cbsae_hub.data.images import image_batches
from cbsae_hub.encoders.vision import VisionEncoder
from cbsae_hub.encoders.zero_shot import ZeroShotHead
from cbsae_hub.metrics.erasure import AttributeErasure, LinearEraser
from cbsae_hub.metrics.spurious import (
    LARGEST_DROP,
    RULES,
    AttributeDifference,
    AttributeMeans,
    GroupAccuracy,
    Rule,
    choose,
    count_groups,
)
from cbsae_hub.steering.latents import Latents, RawNeurons, SteerableSAE, read_latents, weight_dtype
from cbsae_hub.steering.suppression import Pool, edited_tokens, feature_mask, image_latents

TAUS = tuple(float(f"{tau:.3g}") for tau in np.logspace(-6, 0, 25))
NONE, ALWAYS = "none", "LEACE, always"


@dataclass(frozen=True)
class Task:
    """A zero-shot classification with an attribute that is spurious.

    Attributes:
        head: Text embeddings of the classes.
        train: Images on which features are found.
        val: Images on which tau is chosen.
        test: Images that accuracies are reported of.

    Raises:
        ValueError: If ``val`` or ``test`` lacks a group.
    """

    head: ZeroShotHead
    train: GroupedImages
    val: GroupedImages
    test: GroupedImages

    def __post_init__(self) -> None:
        self.val.require_all("the validation split")
        self.test.require_all("the test split")


@dataclass(frozen=True, eq=False)
class Method(ABC):
    """A way of suppression, in several sizes.

    Attributes:
        name: See the module.
        seed: Seed of the SAE, or of the draw.
        taus: Thresholds; None for a method without one.
        sizes: Number of features of each threshold.
        order: The features, of which the first ones are suppressed.
    """

    name: str
    seed: int
    taus: tuple[float | None, ...]
    sizes: tuple[int, ...]
    order: Tensor

    @abstractmethod
    def edit(self, x: Tensor, latents: Mapping[int, Latents], size: int) -> Tensor:
        """Activations ``[images, tokens, d]`` after suppression of so many features; latents by the SAE's ``id``."""


@dataclass(frozen=True, eq=False)
class Ranking(Method):
    """Features of an SAE, or raw neurons, which are set to zero."""

    sae: SteerableSAE

    def edit(self, x: Tensor, latents: Mapping[int, Latents], size: int) -> Tensor:
        """See :class:`Method`."""
        return x - latents[id(self.sae)].part(feature_mask(self.sae, self.order[:size]))


@dataclass(frozen=True, eq=False)
class Erasing(Method):
    """The linear direction of the attribute, which is projected out."""

    eraser: LinearEraser

    def edit(self, x: Tensor, latents: Mapping[int, Latents], size: int) -> Tensor:
        """See :class:`Method`."""
        return self.eraser(x)


@dataclass(frozen=True)
class Key:
    """A suppression: the method, and the number of its features."""

    method: str
    seed: int
    size: int


class LayerStudy:
    """Suppression at one layer.

    Args:
        task: The classification.
        encoder: The encoder at that layer, with all tokens.
        saes: SAEs of that layer, of the same tokens, by their seed.
        taus: Thresholds, see :func:`cbsae_hub.metrics.spurious.find_features`.
        pool: Image-level activation of a neuron: its mean over the SAE's tokens, its maximum, or that of CLS.
        drop: See :func:`cbsae_hub.metrics.spurious.choose`.
        batch: Images at once.

    Raises:
        ValueError: If an SAE is of another layer, width or tokens, see
            :func:`cbsae_hub.steering.suppression.edited_tokens`; or there is no CLS among its tokens.
    """

    def __init__(
        self,
        task: Task,
        encoder: VisionEncoder,
        saes: Mapping[int, SteerableSAE],
        *,
        taus: Sequence[float] = TAUS,
        pool: Pool = "mean",
        drop: float = LARGEST_DROP,
        batch: int = 64,
    ):
        spans = {str(edited_tokens(encoder, sae)): edited_tokens(encoder, sae) for sae in saes.values()}
        if len(spans) != 1:
            raise ValueError("the SAEs of a layer must be there, and of the same tokens, so that methods compare")
        [self.span] = spans.values()
        if pool == "cls" and (self.span.start or not encoder.family.cls_token):
            raise ValueError("pool is cls, but CLS is not among the SAE's tokens: take mean or max")
        self.task, self.encoder, self.batch, self.pool, self.drop = task, encoder, batch, pool, drop
        self.taus = tuple(sorted(taus))
        device = encoder.device
        self.saes = {seed: sae.to(device).eval() for seed, sae in saes.items()}
        self.raw = RawNeurons(encoder.d_in, encoder.layer).to(device)

    def run(self) -> dict[str, Any]:
        """Finds, chooses and tests.

        Returns:
            ``layer``; ``groups``, their names; ``sweep``, accuracies on the validation split by method, seed and tau;
            and ``rows``, what the rules chose, with accuracies on the test split. All of it is plain data, for JSON.
        """
        methods = self.find()
        val = self.evaluate(self.task.val, [(one, size) for one in methods for size in sorted({*one.sizes} - {0})])
        baseline = val[Key(NONE, 0, 0)]
        choices = [(one, rule, self._choose(one, val, baseline, rule)) for one in methods for rule in RULES]
        chosen = dict.fromkeys((one, one.sizes[place]) for one, _, place in choices if place is not None)
        test = self.evaluate(self.task.test, list(chosen))
        sweep = [
            {"method": one.name, "seed": one.seed, "tau": tau, "features": size, **_figures(_of(val, one, size))}
            for one in methods
            for tau, size in zip(one.taus, one.sizes)
        ]
        nothing = {"method": NONE, "seed": 0, "tau": None, "size": 0, "features": []}
        rows = [{**nothing, "rule": rule, **_both(baseline, test[Key(NONE, 0, 0)])} for rule in RULES]
        for one, rule, place in choices:
            size = 0 if place is None else one.sizes[place]
            tau = None if place is None else one.taus[place]
            features = one.order[:size].tolist()
            entry = {"method": one.name, "seed": one.seed, "rule": rule, "tau": tau, "size": size, "features": features}
            rows.append(entry | _both(_of(val, one, size), _of(test, one, size)))
        layer = self.encoder.layer
        return {"layer": layer, "groups": group_names(self.task.val.classes), "sweep": sweep, "rows": rows}

    @torch.no_grad()
    def find(self) -> list[Method]:
        """The methods, each with as many features as exceed each tau on the training split, in one pass over it."""
        means = {seed: AttributeMeans(sae.d_latent).to(self.encoder.device) for seed, sae in self.saes.items()}
        raw = AttributeMeans(self.encoder.d_in).to(self.encoder.device)
        erasure = AttributeErasure(self.encoder.d_in).to(self.encoder.device)
        for ids, x in self._activations(self.task.train, "find"):
            attribute = self.task.train.attribute[ids.start : ids.stop].to(x.device)
            for seed, sae in self.saes.items():
                means[seed].update(image_latents(sae, x, self.pool), attribute)
            raw.update(image_latents(self.raw, x, self.pool), attribute)
            erasure.update(x.flatten(0, 1), attribute.repeat_interleave(x.shape[1]))
        methods: list[Method] = []
        for seed, sae in self.saes.items():
            methods += self._rankings("SAE features", seed, sae, means[seed].compute())
        of_raw = raw.compute()
        for place, seed in enumerate(self.saes):  # the rule finds the same raw neurons whatever the seed
            methods += self._rankings("raw neurons", seed, self.raw, of_raw)[place > 0 :]
        eraser, nothing = erasure.compute(), torch.empty(0, dtype=torch.long)
        return [*methods, *(Erasing(name, 0, (None,), (1,), nothing, eraser) for name in ("LEACE", ALWAYS))]

    def _rankings(self, name: str, seed: int, sae: SteerableSAE, means: AttributeDifference) -> list[Method]:
        """The features that follow the attribute, and as many random ones among those that fire."""
        sizes = tuple(len(means.features(tau)) for tau in self.taus)
        alive = ((means.present != 0) | (means.absent != 0)).nonzero().flatten()
        drawn = np.random.default_rng([seed, self.encoder.layer]).permutation(len(alive))
        return [
            Ranking(name, seed, self.taus, sizes, means.features(-math.inf), sae),
            Ranking(f"random {name}", seed, self.taus, sizes, alive[torch.from_numpy(drawn).to(alive.device)], sae),
        ]

    @torch.no_grad()
    def evaluate(self, split: GroupedImages, trials: Sequence[tuple[Method, int]]) -> dict[Key, GroupAccuracy]:
        """Accuracies of suppressions, a method with a number of features each, and of none, in one pass."""
        answers: dict[Key, list[Tensor]] = {}
        models = {id(one.sae): one.sae for one, _ in trials if isinstance(one, Ranking)}
        span, head = self.span, self.task.head
        for _, v in self._activations(split, "try", slice(None)):
            x = v[:, span]
            latents = {key: read_latents(sae, x.to(weight_dtype(sae))) for key, sae in models.items()}
            answers.setdefault(Key(NONE, 0, 0), []).append(head(self.encoder.embed_from(v)).argmax(1).cpu())
            for one, size in trials:
                edited = v.clone()
                edited[:, span] = one.edit(x, latents, size).to(v.dtype)
                predictions = head(self.encoder.embed_from(edited)).argmax(1).cpu()
                answers.setdefault(Key(one.name, one.seed, size), []).append(predictions)
        return {
            key: count_groups(torch.cat(parts), split.targets, split.attribute, len(split.classes))
            for key, parts in answers.items()
        }

    def _activations(
        self, split: GroupedImages, what: str, span: slice | None = None
    ) -> Iterator[tuple[range, Tensor]]:
        """Ids of images and their activations ``[images, tokens, d]``, of the SAE's tokens or of another span."""
        total = -(-len(split.images) // self.batch)
        batches = image_batches(split.images, self.batch)
        for ids, pictures in tqdm(batches, total=total, desc=f"layer {self.encoder.layer}: {what}", unit="batch"):
            yield ids, self.encoder(pictures)[:, self.span if span is None else span]

    def _choose(self, one: Method, val: Mapping[Key, GroupAccuracy], baseline: GroupAccuracy, rule: Rule) -> int | None:
        if one.name == ALWAYS:
            return 0
        places = [place for place, size in enumerate(one.sizes) if size]
        best = choose(baseline, [_of(val, one, one.sizes[place]) for place in places], rule, self.drop)
        return None if best is None else places[best]


def _of(accuracies: Mapping[Key, GroupAccuracy], one: Method, size: int) -> GroupAccuracy:
    return accuracies[Key(one.name, one.seed, size) if size else Key(NONE, 0, 0)]


def _figures(accuracy: GroupAccuracy) -> dict[str, Any]:
    return {"overall": accuracy.overall, "worst": accuracy.worst, "by_group": list(accuracy.groups)}


def _both(val: GroupAccuracy, test: GroupAccuracy) -> dict[str, Any]:
    return {"val": _figures(val), "test": _figures(test)}
