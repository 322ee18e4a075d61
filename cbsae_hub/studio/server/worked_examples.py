"""Chooses worked examples among experiments that it runs as the page runs them: what a card promises, the page shows.

training/choose_examples.py runs this once and writes the result beside the model, for the tab Start.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cbsae_hub.data.images import load_images
from cbsae_hub.models import CBSAE
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, Steering
from cbsae_hub.studio.basket import range_of
from cbsae_hub.studio.links import TAU
from cbsae_hub.studio.server.concept_training import ConceptTraining
from cbsae_hub.studio.server.experiments import STEPS, Answer, Answers, Experiment
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import public_id
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.view.images import WHITE
from cbsae_hub.words import name_key, same_name, words_of

logger = logging.getLogger(__name__)

LOW = 0.2  # steerability that an example calls low
PLACE = 0.25  # share of the patches that "not all over the picture" is
SEEDS = (0, 1)  # of drawings: those that the tab draws at first
TRIED = 60  # experiments at most for one example

Record = dict[str, Any]


class ExampleChooser:
    """Runs experiments with a model of the page until one holds for each kind of example."""

    def __init__(self, serving: Serving, model: LoadedModel):
        self.serving, self.model = serving, model
        self.frame = model.telling

    def choose(self, groups: Record | None = None) -> Record:
        """Returns the record of an experiment by kind of example, and the models that were used.

        Args:
            groups: Labelled pictures of the tab Suppress: ``images``, the splits ``find`` and ``test``, ``attribute``,
                ``target`` and ``prompts`` as in section `suppression` of a recipe; None for none.
        """
        model = self.model
        examples: Record = {
            "revision": model.pack.info["model"]["revision"],
            **{name: source and Path(public_id(source)).name for name, source in model.generators.ids.items()},
        }
        steers = model.alpha is not None and model.generators.ids["llava"] and "said_white" in self.frame
        extends = isinstance(model.sae, CBSAE)
        for kind, possible, candidates in (
            ("word", steers, self._words("sae")),
            ("mute", steers, self._mutes()),
            ("look", True, self._looks()),
            ("concept", steers and extends, self._words("cb")),
            ("two", steers and extends, self._pairs(examples)),
            ("draw", steers and model.generators.ids["unclip"], self._drawings()),
            ("lacking", extends, self._lacking()),
            ("suppress", groups, iter([self.suppressed(groups or {})] if groups else [])),
        ):
            examples[kind] = next(candidates, None) if possible else None
            logger.info("%s: %s", kind, examples[kind])
        return {kind: record for kind, record in examples.items() if record is not None}

    def _experiment(self, neurons: Sequence[int], word: str = "") -> Experiment:
        """Returns an experiment on a white image, with neurons set as the page sets them at first."""
        white = self.serving.images.get(WHITE, self.model.pack)
        edits = [Edit(neuron, range_of(self.model, neuron).start) for neuron in neurons]
        return Experiment(self.model, white, Steering(edits), word)

    def _ask(self, *neurons: int) -> Answers:
        """Returns LLaVA's answers about a white image with neurons set."""
        return self.serving.experiments.ask(self._experiment(neurons), ONE_WORD)

    def _steerable(self, kind: str) -> pd.DataFrame:
        """Returns neurons that LLaVA has called by their names, those with the best names first."""
        frame = self.frame[self.frame["kind"] == kind]
        if kind == "cb":  # what the SAE lacks: none of its neurons is called so
            in_sae = {name_key(row.name) for row in self.model.pack.neurons if row.kind == "sae" and row.name}
            frame = frame.assign(name=frame["designated"])
            frame = frame[~frame["name"].map(name_key).isin(in_sae)]
        frame = frame[frame["name"].notna() & frame["said_white"].notna()]
        agree = frame["said_white"].map(name_key) == frame["name"].map(name_key)
        return frame[agree].sort_values("score", ascending=False)

    def _words(self, kind: str) -> Iterator[Record]:
        """Finds neurons whose name LLaVA says when they are set, and neither without them nor with the control."""
        for row in islice(self._steerable(kind).itertuples(), TRIED):
            answers = self._ask(row.neuron)
            others = (answers.original, answers.sae, answers.random)
            if _is(answers.steered, row.name) and not any(_is(other, row.name) for other in others):
                texts = {"said": answers.steered.text, "control": answers.random.text}
                yield {"neuron": row.neuron, "name": row.name, **texts}

    def _mutes(self) -> Iterator[Record]:
        """Finds neurons that surely stand for something and do not make LLaVA say so."""
        frame = self.frame[(self.frame["kind"] == "sae") & (self.frame["steerability"] < LOW)]
        for row in islice(frame.sort_values("interpretability", ascending=False).itertuples(), TRIED):
            if self._strong(row.neuron, row.name):
                text = self._ask(row.neuron).steered.text
                if not set(words_of(row.name)) <= set(words_of(text)):
                    yield {"neuron": row.neuron, "name": row.name, "said": text}

    def _strong(self, neuron: int, name: str) -> bool:
        matches = self.model.pack.find(name, len(self.model.pack.neurons)).matches
        return any(match.neuron == neuron and match.verdict == "strong" for match in matches)

    def _pairs(self, examples: Record) -> Iterator[Record]:
        """Finds two neurons of which one wins, while each alone is said."""
        if examples["word"] is None or examples["concept"] is None:
            return
        for one in [examples["word"], *islice(self._words("sae"), 5)]:
            for other in [examples["concept"], *islice(self._words("cb"), 5)]:
                answer = self._ask(one["neuron"], other["neuron"]).steered
                if _is(answer, one["name"]) or _is(answer, other["name"]):
                    neurons, names = ([record[key] for record in (one, other)] for key in ("neuron", "name"))
                    yield {"neurons": neurons, "names": names, "said": answer.text}

    def _drawings(self) -> Iterator[Record]:
        """Finds neurons that are said, and drawn the more the stronger they are, in every row of the grid."""
        for record in islice(self._words("sae"), TRIED):
            experiment = self._experiment([record["neuron"]], record["name"])
            rows = self.serving.experiments.draw(experiment, SEEDS, STEPS)
            if all(nearer_and_nearer([drawing.concept for drawing in row]) for row in rows):
                yield {"neuron": record["neuron"], "name": record["name"], "said": record["said"]}

    def _looks(self) -> Iterator[Record]:
        """Finds neurons that fire on few patches of an image, most on their own thing, where others fire elsewhere.

        Only images with a column ``objects`` of ``name`` and ``box`` (x0, y0, x1, y1) say where things are.
        """
        model, source = self.model, self.model.pack.info["images"]
        try:
            images = load_images(source["id"], source["split"], beside=model.model_id)
        except (OSError, ValueError) as error:
            logger.warning("nobody knows where things are in the pictures: %s", error)
            return
        if "objects" not in images.column_names:
            return
        for row in islice(self.frame.sort_values("score", ascending=False).itertuples(), 5 * TRIED):
            if row.kind == "cb" or not row.name or not self._strong(row.neuron, row.name):
                continue
            for example in model.pack.examples(row.neuron, "top", 9):
                things = images[example.image_id]["objects"]
                boxes = [thing["box"] for thing in things if thing["name"] == row.name and thing.get("box")]
                picture = images[example.image_id]["image"]
                if boxes and (counts := self._local(row.neuron, example.image_id, boxes, picture)):
                    yield {"neuron": row.neuron, "name": row.name, "picture": f"s{example.image_id}", **counts}

    def _local(
        self, neuron: int, image: int, boxes: list[Sequence[float]], picture: Image.Image
    ) -> dict[str, int] | None:
        """Returns on how many patches of an image a neuron fires; None if that is no example of where it looks."""
        model, grid = self.model, self.model.pack.grid
        if grid is None:
            return None
        view = model.encoder.view(picture).box
        inspection = model.inspect(model.pack.image(image), of_pack=True)
        place = np.flatnonzero(inspection.active == neuron)
        if not len(place) or place[0] not in model.listed(inspection, np.arange(len(inspection.active)), True):
            return None
        strengths = inspection.latents[inspection.before :, place[0]]
        fires, bright = strengths > 0, np.flatnonzero(strengths > strengths.max() / 2)
        if fires.mean() > PLACE or not all(
            any(_within(patch, box, view, grid) for box in boxes) for patch in bright.tolist()
        ):
            return None
        for patch in np.flatnonzero(~fires):
            if not len(model.listed(inspection, np.flatnonzero(inspection.strengths(int(patch)) > 0), True)):
                return None
        return {"patches": int(fires.sum()), "of": len(fires)}

    def suppressed(self, groups: Record) -> Record:
        """Suppresses what fires without the attribute; returns the groups, and right answers about one of them.

        It is the group without the attribute of which CLIP is right least often: waterbirds on land, for instance.
        Nothing is chosen by its result: tau is what the tab has at first.
        """
        reading = self.serving.groups.samples(self.model, groups, without=True)
        _, answers = self.serving.groups.suppress(self.model, reading, 10**TAU)
        versions = [one for one in (reading.before, answers.after, answers.random) if one is not None]
        group = min(range(0, len(reading.names), 2), key=lambda place: versions[0].groups[place])
        of_group = {"class": list(groups["target"]["classes"])[group // 2], "pictures": versions[0].images[group]}
        return {**groups, **of_group, "right": [one.hits[group] for one in versions], "off": answers.off}

    def _lacking(self) -> Iterator[Record]:
        """Finds words that no neuron surely stands for, until one is trained, which LLaVA then says."""
        model, training = self.model, ConceptTraining(self.serving)
        names = {name_key(row.name) for row in model.pack.neurons if row.name}
        names |= {name_key(name) for name in model.concepts}
        for word in (name for name in model.pack.vocabulary if name_key(name) not in names):
            own = training.add(model, [word], lambda *_: None, lambda: False)
            if own.pack.find(word).verdict != "strong":
                continue
            answers = ExampleChooser(self.serving, own)._ask(len(own.pack.neurons) - 1)
            if _is(answers.steered, word) and not _is(answers.random, word):
                yield {"name": word, "said": answers.steered.text, "control": answers.random.text}


def _within(patch: int, box: Sequence[float], view: Sequence[float], grid: tuple[int, int]) -> bool:
    """Returns whether a patch's middle lies in a box of pixels, or less than a patch beside it.

    ``view`` is the box of pixels that all patches together cover.
    """
    wide, high = (view[2] - view[0]) / grid[1], (view[3] - view[1]) / grid[0]
    x, y = view[0] + (patch % grid[1] + 0.5) * wide, view[1] + (patch // grid[1] + 0.5) * high
    return box[0] - wide <= x <= box[2] + wide and box[1] - high <= y <= box[3] + high


def nearer_and_nearer(cosines: list[float | None]) -> bool:
    """Returns whether cosines grow with the strength, the unsteered one first, and the last, the control, is behind."""
    numbers = [cosine for cosine in cosines if cosine is not None]
    if len(numbers) < len(cosines):
        return False
    *steered, control = numbers
    return all(a < b for a, b in zip(steered, steered[1:])) and control < min(steered[1:])


def _is(answer: Answer, name: str) -> bool:
    return same_name(answer.text.strip().strip(".!"), name)
