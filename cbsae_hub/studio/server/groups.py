"""Groups of pictures, the neurons that separate them, and how often CLIP is right once these are switched off."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cbsae_hub.data.groups import GroupedImages, group_images
from cbsae_hub.data.images import load_images
from cbsae_hub.hub.files import sha256
from cbsae_hub.metrics.spurious import AttributeDifference, AttributeMeans, GroupAccuracy
from cbsae_hub.steering.controls import CONTROL_SEED
from cbsae_hub.steering.suppression import ablate, edited_tokens, feature_mask, image_latents
from cbsae_hub.studio.server.clip_experiments import refusing
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused

PER_GROUP = 25  # labelled pictures, in which neurons are looked for, and as many others, about which CLIP is asked
MAX_SET = 24  # pictures of a visitor's set
MAX_READINGS, MAX_RESULTS = 4, 256  # that are remembered: a reading of a real CLIP holds 240 MB
NO_SAMPLES = "This model has no labelled pictures: bring two sets of your own."

Record = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """Two sets of pictures as SAE and CLIP read them.

    Attributes:
        key: Everything that it depends on.
        difference: Mean activations of the neurons on the first set, whose pictures have an attribute, and the second.
        firing: Numbers of the neurons that fire on any of them.
        v: Activations at the SAE's block of the pictures about which CLIP is asked, ``[pictures, tokens, d]``.
        names: Names of the groups of these pictures.
        groups: Their groups, ``[pictures]`` int64.
        targets: Right answers, places among ``answers``, ``[pictures]`` int64.
        answers: Unit embeddings of the answers, ``[answers, e]``; without any, CLIP is not asked.
        before: Right answers with nothing switched off; None without answers.
    """

    key: tuple[Any, ...]
    difference: AttributeDifference
    firing: Tensor
    v: Tensor
    names: tuple[str, ...]
    groups: Tensor
    targets: Tensor
    answers: Tensor
    before: GroupAccuracy | None


@dataclass(frozen=True)
class Suppressed:
    """Right answers once neurons are switched off; None where CLIP is not asked, or there are none.

    Attributes:
        off: Number of neurons that are switched off.
        after: Right answers without them.
        random: Right answers without as many others, drawn among those that fire.
    """

    off: int
    after: GroupAccuracy | None
    random: GroupAccuracy | None


class Groups:
    """Compares sets of pictures; the same ones are read once."""

    def __init__(self) -> None:
        self._readings: Results[Reading] = Results(MAX_READINGS)
        self._results: Results[Suppressed] = Results(MAX_RESULTS)

    def samples(self, model: LoadedModel, record: Record, without: bool = False) -> Reading:
        """Reads labelled pictures: those with an attribute, and those without.

        Args:
            model: The model.
            record: The pictures, see :func:`labels_of`.
            without: Whether the lack of the attribute is what pictures of the first set have in common.

        Raises:
            Refused: If they are not here, or the SAE does not fit.
            Unavailable: If the encoder is no CLIP.
        """

        def compute() -> Reading:
            looked_at, tested = (_labelled(model, record, record[split]) for split in ("find", "test"))
            prompts = [record["prompts"].get(name, [name]) for name in tested.classes]
            names = [f"{name}, {side}" for name in tested.classes for side in sides(record)]
            return _read(
                model, (model.key, without),
                looked_at.images["image"], looked_at.attribute ^ without, tested.images["image"],
                2 * tested.targets + tested.attribute.long(), names, tested.targets, prompts,
            )  # fmt: skip

        return self._readings.of((model.key, without), compute)

    def sets(
        self, model: LoadedModel, first: Sequence[Image.Image], second: Sequence[Image.Image], answers: Sequence[str]
    ) -> Reading:
        """Reads two sets of pictures.

        Args:
            model: The model.
            first: Pictures that have something in common.
            second: Pictures without it.
            answers: The words among which CLIP chooses. The first is right for the first set, the second for the
                second one; both may be the same. Without any, CLIP is not asked.

        Raises:
            Refused: If a set is empty or too large, there are too few answers, or the SAE does not fit.
            Unavailable: If the encoder is no CLIP.
        """
        sizes = len(first), len(second)
        if not all(1 <= size <= MAX_SET for size in sizes):
            raise Refused(f"Each set needs 1 to {MAX_SET} pictures; these have {sizes[0]} and {sizes[1]}.")
        if answers and (len(answers) < 2 or len(set(answers)) < 2):
            raise Refused("CLIP has to choose: say what each set shows, and give another word if that is the same.")
        pictures = [*first, *second]
        key = (model.key, sizes, tuple(answers), *(sha256(f"{one.size}", one.tobytes()) for one in pictures))

        def compute() -> Reading:
            words = list(dict.fromkeys(answers))
            side = torch.tensor([0] * sizes[0] + [1] * sizes[1])
            targets = torch.tensor([words.index(word) for word in answers[:2]])[side] if words else side
            return _read(model, key, pictures, side == 0, pictures, side, ["first set", "second set"], targets,
                         [[word] for word in words])  # fmt: skip

        return self._readings.of(key, compute)

    def suppress(
        self, model: LoadedModel, reading: Reading, tau: float, on: AbstractSet[int] = frozenset()
    ) -> tuple[list[int], Suppressed]:
        """Switches off the neurons that fire more on the first set, and asks CLIP again.

        Args:
            model: The model.
            reading: The sets.
            tau: Least difference of the neurons' means, see :func:`cbsae_hub.metrics.find_features`.
            on: Numbers of neurons that stay on nevertheless.

        Returns:
            The numbers of the neurons with such a difference, largest first; and what CLIP answers without them.
        """
        features = reading.difference.features(tau).tolist()
        off = [neuron for neuron in features if neuron not in on]

        def compute() -> Suppressed:
            if not off or reading.before is None:
                return Suppressed(len(off), reading.before, None)
            others = reading.firing[~torch.isin(reading.firing, torch.tensor(off))]
            order = torch.randperm(len(others), generator=torch.Generator().manual_seed(CONTROL_SEED))
            drawn = others[order[: len(off)]].tolist()
            random = _accuracy(model, reading, drawn) if len(drawn) == len(off) else None
            return Suppressed(len(off), _accuracy(model, reading, off), random)

        return features, self._results.of((*reading.key, tuple(off)), compute)


def labels_of(model: LoadedModel) -> Record:
    """Returns where a model's labelled pictures are, of its worked examples; raises Refused if it has none."""
    if "suppress" not in model.worked:
        raise Refused(NO_SAMPLES)
    return model.worked["suppress"]


def sides(record: Record) -> list[str]:
    """Returns what the page calls pictures without the attribute of a record, and with it."""
    attribute = " or ".join(map(str, record["attribute"]["values"]))
    return [f"no {attribute}", attribute]


def _labelled(model: LoadedModel, record: Record, split: str) -> GroupedImages:
    """Opens at most :data:`PER_GROUP` pictures of each group of a split."""
    attribute, target = record["attribute"], record["target"]
    try:
        images = load_images(record["images"], split, beside=model.model_id)
        grouped = group_images(
            images, (attribute["column"], attribute["values"]), (target["column"], target["classes"]), f"split {split}"
        )
        grouped.require_all(f"split {split}")
    except (OSError, ValueError) as error:
        raise Refused(f"The labelled pictures of this model cannot be had here: {error}.") from error
    groups = 2 * grouped.targets + grouped.attribute.long()
    rows = torch.cat([(groups == group).nonzero()[:PER_GROUP, 0] for group in range(2 * len(grouped.classes))])
    return GroupedImages(images.select(rows.tolist()), grouped.attribute[rows], grouped.targets[rows], grouped.classes)


def _read(
    model: LoadedModel, key: tuple[Any, ...], compared: Sequence[Image.Image], attribute: Tensor,
    pictures: Sequence[Image.Image], groups: Tensor, names: Sequence[str], targets: Tensor, prompts: list[list[str]],
) -> Reading:  # fmt: skip
    clip, sae = model.clip, model.sae
    tokens = refusing(lambda: edited_tokens(model.encoder, sae))
    v = clip.activations(compared)
    latents = image_latents(sae, v[:, tokens])
    means = AttributeMeans(sae.d_latent)
    means.update(latents, attribute)
    tested = v if pictures is compared else clip.activations(pictures)
    answers = [F.normalize(clip.embed_words(texts).mean(0), dim=-1) for texts in prompts]
    firing = (latents.to_dense() != 0).any(0).nonzero()[:, 0]
    reading = Reading(
        key, means.compute(), firing, tested, tuple(names), groups, targets,
        torch.stack(answers) if answers else v.new_zeros(0, 0), None,
    )  # fmt: skip
    return replace(reading, before=_accuracy(model, reading, [])) if answers else reading


def _accuracy(model: LoadedModel, reading: Reading, off: Sequence[int]) -> GroupAccuracy:
    """Returns right answers of each group without some neurons."""
    v = reading.v
    if off:
        tokens = edited_tokens(model.encoder, model.sae)
        v = v.clone()
        v[:, tokens] = ablate(v[:, tokens], model.sae, feature_mask(model.sae, off)).to(v.dtype)
    right = (model.clip.embed(v) @ reading.answers.T).argmax(1) == reading.targets
    images = torch.bincount(reading.groups, minlength=len(reading.names))
    hits = torch.bincount(reading.groups[right], minlength=len(reading.names))
    return GroupAccuracy(tuple(hits.tolist()), tuple(images.tolist()))
