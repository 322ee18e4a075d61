"""Sheets of concepts: what discarded, retained and concept neurons make unCLIP draw and LLaVA say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cbsae_hub.data.images import load_images
from cbsae_hub.models import CBSAE, SAE
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.pictures import white_image
from cbsae_hub.plots import plot_sheet
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, LlavaSteerer, Steering, UnclipSteerer

KINDS = ("discarded", "retained", "concept neuron")
QUESTIONS = {"one word": ONE_WORD, "sentence": "Describe the image."}


@dataclass(frozen=True)
class SheetSettings:
    """The models, images and strengths of a sheet; models are folders or Hub ids.

    Attributes:
        model: The SAE that was pruned.
        cbsae: Its CB-SAE.
        scores: Folder or file of the scores by which it was pruned.
        images: Image dataset, of which ``split`` is shown.
        llava: The LLaVA; without one nothing is said.
        unclip: The Stable unCLIP; without one nothing is drawn.
        alpha: Strength to which neurons are set.
        guidance: Guidance of the drawings.
    """

    model: str
    cbsae: str
    scores: str
    images: str
    split: str
    llava: str | None = None
    unclip: str | None = None
    alpha: float = 50.0
    guidance: float = 10.0

    @classmethod
    def of(
        cls, cbsae: Mapping[str, Any], scores: Mapping[str, Any], steerability: Mapping[str, Any]
    ) -> "SheetSettings":
        """The settings in a recipe's sections of the same names.

        Raises:
            ValueError: If a section lacks one.
        """
        places = {
            "model": (cbsae, "model"),
            "cbsae": (cbsae, "output"),
            "scores": (cbsae, "scores"),
            "images": (scores, "images"),
            "split": (scores, "split"),
            **{name: (steerability, name) for name in ("llava", "unclip", "alpha", "guidance")},
        }
        settings = {name: section[key] for name, (section, key) in places.items() if section.get(key) is not None}
        if missing := [key for name, (_, key) in places.items() if name not in settings and not hasattr(cls, name)]:
            raise ValueError(f"the recipe lacks {', '.join(missing)} in its sections cbsae, scores and steerability")
        return cls(**settings)


class Outcome(NamedTuple):
    """A neuron's effect: unCLIP's drawing of it alone, LLaVA's word of a white image, its sentence of the scene.

    What was not asked for is None.
    """

    drawing: Image.Image | None
    word: str | None
    sentence: str | None


@dataclass(frozen=True)
class Sheet:
    """Concepts, each steered by a neuron of each of ``KINDS``.

    Attributes:
        neurons: Concepts and their neurons, see :func:`choose`.
        outcomes: Effects of the neurons of each kind, one per concept.
        unsteered: LLaVA's sentence of the scene as it is, if it was asked.
        row: Row of the scene in its dataset.
        alpha: Strength to which neurons were set.
    """

    neurons: pd.DataFrame
    outcomes: Mapping[str, Sequence[Outcome]]
    unsteered: str | None
    row: int
    alpha: float

    def figure(self) -> Figure:
        """The sheet: a row per concept, a column per kind of neuron."""
        cells = [
            [(one.drawing, "" if one.word is None else f"“{one.word}”\n{one.sentence}") for one in row]
            for row in zip(*(self.outcomes[kind] for kind in KINDS), strict=True)
        ]
        outcomes = [one for kind in KINDS for one in self.outcomes[kind]]
        parts = ["drawn by the neuron alone"] if any(one.drawing for one in outcomes) else []
        if self.unsteered is not None:
            parts += ["“the word” for a white image", f"what becomes of: {self.unsteered}"]
        caption = "; ".join(parts) or "no LLaVA and no unCLIP: nothing was said or drawn"
        caption = caption[0].upper() + caption[1:]
        return plot_sheet(cells, self.neurons["concept"].tolist(), KINDS, caption)

    def record(self) -> dict[str, Any]:
        """All sentences, for a JSON file."""
        concepts: list[dict[str, Any]] = [{"concept": concept} for concept in self.neurons["concept"]]
        for kind in KINDS:
            for record, neuron, (_, word, sentence) in zip(concepts, self.neurons[kind], self.outcomes[kind]):
                record[kind] = {"neuron": int(neuron), "one word": word, "sentence": sentence}
        scene = {"row": self.row, "unsteered": self.unsteered}
        return {"alpha": self.alpha, "questions": QUESTIONS, "scene": scene, "concepts": concepts}


def choose(frame: pd.DataFrame, cb: CBSAE, count: int) -> pd.DataFrame:
    """Concepts and their three neurons: ids in the parent SAE for the first two, in the CB-SAE for the third.

    A discarded and a retained neuron stand for a concept if it is among the five names of theirs that score best; of
    several the one is taken with which it scores best.

    Args:
        frame: Neuron table of the parent.
        cb: Pruned by it.
        count: Concepts at most: the first ones of the bottleneck that have all three.

    Raises:
        ValueError: If no concept has all three.
    """
    retained = frame["neuron"].isin(cb.sae_neuron_ids)
    owners = {}
    for kind, part in zip(KINDS, (frame[~retained], frame[retained])):
        names = part[["neuron", "names", "scores"]].explode(["names", "scores"])
        best = names.sort_values("scores", ascending=False, kind="stable").drop_duplicates("names")
        owners[kind] = dict(zip(best["names"], best["neuron"]))
    rows = [
        {"concept": name, **{kind: neurons[name] for kind, neurons in owners.items()}, KINDS[2]: cb.d_sae + place}
        for place, name in enumerate(cb.concepts)
        if all(name in neurons for neurons in owners.values())
    ]
    if not rows:
        raise ValueError("no concept of the bottleneck has a discarded and a retained neuron")
    return pd.DataFrame(rows[:count])


def steer(
    llava: LlavaSteerer | None,
    unclip: UnclipSteerer | None,
    scene: Image.Image,
    neurons: Sequence[int],
    alpha: float,
    guidance: float,
) -> list[Outcome]:
    """The effects of neurons of one model, each set to ``alpha``, on the generators that there are."""
    alone = [Steering([Edit(neuron, alpha)], isolate=True) for neuron in neurons]
    within = [Steering([Edit(neuron, alpha)]) for neuron in neurons]
    white = [white_image()] * len(neurons)
    nothing: list[Any] = [None] * len(neurons)
    drawings, words, sentences = nothing, nothing, nothing
    if unclip is not None:
        drawings = unclip.generate(white, alone, guidance_scale=guidance)
    if llava is not None:
        words = llava.generate(white, QUESTIONS["one word"], within)
        sentences = llava.generate([scene] * len(neurons), QUESTIONS["sentence"], within)
    return [Outcome(*each) for each in zip(drawings, words, sentences, strict=True)]


class SheetStudy:
    """Everything that a sheet needs, loaded, so that slips in the settings show before anything is computed.

    Args:
        settings: The models, images and strengths.
        count: Concepts at most.
        row: Row of the scene in the image dataset.
        device: Device of the generators.

    Raises:
        ValueError: If a model does not fit, or no concept can be shown.
        OSError: If a model or a dataset is not there.
    """

    def __init__(self, settings: SheetSettings, count: int = 12, row: int = 0, device: str = "cpu"):
        self.settings, self.row = settings, row
        sae, self.cb = SAE.from_pretrained(settings.model), CBSAE.from_pretrained(settings.cbsae)
        self.neurons = choose(NeuronTable.read(Path(settings.scores)).frame, self.cb, count)
        self.scene = load_images(settings.images, settings.split, beside=settings.model)[row]["image"]
        where: dict[str, Any] = {"device": device, "beside": settings.model}
        self.llava: LlavaSteerer | None = None
        self.unclip: UnclipSteerer | None = None
        if settings.llava:
            self.llava = LlavaSteerer.from_pretrained(settings.llava, sae, **where)
        if settings.unclip:
            self.unclip = UnclipSteerer.from_pretrained(settings.unclip, sae, **where)

    def run(self) -> Sheet:
        """Steers and asks."""
        llava, unclip = self.llava, self.unclip
        of_sae = llava, unclip
        of_cb = llava.with_sae(self.cb) if llava else None, unclip.with_sae(self.cb) if unclip else None
        alpha, guidance = self.settings.alpha, self.settings.guidance
        outcomes = {
            kind: steer(*steerers, self.scene, self.neurons[kind].tolist(), alpha, guidance)
            for kind, steerers in zip(KINDS, (of_sae, of_sae, of_cb), strict=True)
        }
        unsteered = llava.generate([self.scene], QUESTIONS["sentence"])[0] if llava else None
        return Sheet(self.neurons, outcomes, unsteered, self.row, alpha)
