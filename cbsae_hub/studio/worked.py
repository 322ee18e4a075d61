"""Worked examples are chosen among experiments that were run, as the page runs them: what a card says, the page shows.

training/choose_examples.py runs them once and puts what it saw beside the model; the tab Start tells it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cbsae_hub.data.images import load_images
from cbsae_hub.models import CBSAE
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import span_of
from cbsae_hub.studio.server.experiments import STEPS, Asked, Intervention, Said
from cbsae_hub.studio.server.loaded import Loaded, public_id
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.workshop import Workshop
from cbsae_hub.studio.tabs.inspect_image import visible
from cbsae_hub.studio.view.pictures import WHITE
from cbsae_hub.words import name_key, words_of

logger = logging.getLogger(__name__)

LOW = 0.2  # steerability that an example calls low
PLACE = 0.25  # share of the patches that "not all over the picture" is
SEEDS = (0, 1)  # of drawings: those that the tab draws unless told otherwise
TRIED = 60  # experiments at most for one example


class Chooser:
    """Runs experiments until one holds for each kind of example.

    Args:
        serving: What the page serves.
        loaded: The model whose examples are wanted.
    """

    def __init__(self, serving: Serving, loaded: Loaded):
        self.serving, self.loaded = serving, loaded
        self.frame = loaded.pack.neurons.frame

    def choose(self) -> dict[str, Any]:
        """What was seen, by kind of example, and of which models."""
        loaded = self.loaded
        told: dict[str, Any] = {
            "revision": loaded.pack.info["model"]["revision"],
            **{name: given and Path(public_id(given)).name for name, given in loaded.generators.ids.items()},
        }
        steers = loaded.alpha is not None and loaded.generators.ids["llava"] and "said_white" in self.frame
        kinds: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"look": self._looks}
        if steers:
            kinds = {"word": lambda: self._words("sae"), "mute": self._mutes, **kinds}
        if steers and isinstance(loaded.sae, CBSAE):
            kinds["concept"] = lambda: self._words("cb")
        for kind, candidates in kinds.items():
            told[kind] = next(candidates(), None)
        if told.get("word") and told.get("concept"):
            told["two"] = next(self._pairs(told["word"], told["concept"]), None)
        if steers and loaded.generators.ids["unclip"]:
            told["draw"] = next(self._drawings(), None)
        if isinstance(loaded.sae, CBSAE):
            told["lacking"] = next(self._lacking(), None)
        for kind in ("word", "concept", "two", "mute", "draw", "look", "lacking"):
            logger.info("%s: %s", kind, told.get(kind))
        return {kind: facts for kind, facts in told.items() if facts is not None}

    def _ask(self, *neurons: int) -> Asked:
        """What LLaVA says of a white picture with neurons set as the page sets them at first."""
        how = Intervention(tuple((neuron, span_of(self.loaded, neuron).start) for neuron in neurons))
        return self.serving.experiments.ask(self.loaded, self._white(), ONE_WORD, how, "")

    def _white(self) -> Any:
        return self.serving.pictures.get(WHITE, self.loaded.pack)

    def _named(self, kind: str) -> pd.DataFrame:
        """Neurons that LLaVA has called by their names, those with the best names first."""
        frame = self.frame[self.frame["kind"] == kind]
        if kind == "cb":  # what the SAE lacks: none of its neurons is called so
            in_sae = {name_key(name) for name in self.frame.loc[self.frame["kind"] == "sae", "name"] if name}
            frame = frame.assign(name=frame["designated"])
            frame = frame[~frame["name"].map(name_key).isin(in_sae)]
        named = frame[frame["name"].notna() & frame["said_white"].notna()]
        said = named["said_white"].map(name_key) == named["name"].map(name_key)
        return named[said].sort_values("score", ascending=False)

    def _words(self, kind: str) -> Iterator[dict[str, Any]]:
        """Neurons whose name LLaVA says when they are set, and neither without them nor with the control."""
        for row in islice(self._named(kind).itertuples(), TRIED):
            asked = self._ask(row.neuron)
            unsteered = (asked.original, asked.sae, asked.random)
            if _is(asked.steered, row.name) and not any(_is(said, row.name) for said in unsteered):
                yield {
                    "neuron": row.neuron,
                    "name": row.name,
                    "said": asked.steered.answer,
                    "control": asked.random.answer,
                }

    def _mutes(self) -> Iterator[dict[str, Any]]:
        """Neurons that surely stand for something and do not make LLaVA say so."""
        frame = self.frame[(self.frame["kind"] == "sae") & (self.frame["steerability"] < LOW)]
        for row in islice(frame.sort_values("interpretability", ascending=False).itertuples(), TRIED):
            if self._strong(row.neuron, row.name):
                asked = self._ask(row.neuron)
                if not set(words_of(row.name)) <= set(words_of(asked.steered.answer)):
                    yield {"neuron": row.neuron, "name": row.name, "said": asked.steered.answer}

    def _strong(self, neuron: int, name: str) -> bool:
        found = self.loaded.pack.find(name, len(self.frame)).matches
        return any(match.neuron == neuron and match.verdict == "strong" for match in found)

    def _pairs(self, word: dict[str, Any], concept: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Two neurons of which one wins, while each alone is said."""
        for one in [word, *islice(self._words("sae"), 5)]:
            for other in [concept, *islice(self._words("cb"), 5)]:
                asked = self._ask(one["neuron"], other["neuron"])
                if _is(asked.steered, one["name"]) or _is(asked.steered, other["name"]):
                    yield {
                        "neurons": [one["neuron"], other["neuron"]],
                        "names": [one["name"], other["name"]],
                        "said": asked.steered.answer,
                    }

    def _drawings(self) -> Iterator[dict[str, Any]]:
        """Neurons that are said, and drawn the more the stronger they are, in every row of the grid."""
        for facts in islice(self._words("sae"), TRIED):
            how = Intervention(((facts["neuron"], span_of(self.loaded, facts["neuron"]).start),))
            rows = self.serving.experiments.draw(self.loaded, self._white(), how, facts["name"], SEEDS, STEPS)
            if all(nearer_and_nearer([drawn.concept for drawn in row]) for row in rows):
                yield {"neuron": facts["neuron"], "name": facts["name"], "said": facts["said"]}

    def _looks(self) -> Iterator[dict[str, Any]]:
        """Neurons that fire on few patches of a picture, most on what they stand for, where others fire elsewhere.

        Only pictures tell where that is that have a column ``objects`` with ``name`` and ``box`` (x0, y0, x1, y1).
        """
        loaded, source = self.loaded, self.loaded.pack.info["images"]
        try:
            images = load_images(source["id"], source["split"], beside=loaded.model_id)
        except (OSError, ValueError) as error:
            logger.warning("nobody knows where things are in the pictures: %s", error)
            return
        if "objects" not in images.column_names or loaded.pack.grid is None:
            return
        for row in islice(self.frame.sort_values("score", ascending=False).itertuples(), 5 * TRIED):
            if row.kind == "cb" or not row.name or not self._strong(row.neuron, row.name):
                continue
            for example in loaded.pack.examples(row.neuron, "top", 9):
                things = images[example.image_id]["objects"]
                boxes = [thing["box"] for thing in things if thing["name"] == row.name and thing.get("box")]
                if not boxes:
                    continue
                seen = loaded.inspect(loaded.pack.image(example.image_id))
                place = np.flatnonzero(seen.active == row.neuron)
                listed = visible(loaded, seen, np.arange(len(seen.active)), True)
                if not len(place) or place[0] not in listed:
                    continue
                fires = seen.latents[:, place[0]] > 0
                others = (
                    visible(loaded, seen, np.flatnonzero(seen.latents[p] > 0), True) for p in np.flatnonzero(~fires)
                )
                size = images[example.image_id]["image"].size
                lit = seen.latents[:, place[0]] > seen.latents[:, place[0]].max() / 2
                on_it = all(
                    any(_within(patch, box, size, loaded.pack.grid) for box in boxes) for patch in np.flatnonzero(lit)
                )
                if on_it and fires.mean() <= PLACE and all(map(len, others)):
                    patches = {"patches": int(fires.sum()), "of": len(fires)}
                    yield {"neuron": row.neuron, "name": row.name, "picture": f"s{example.image_id}", **patches}

    def _lacking(self) -> Iterator[dict[str, Any]]:
        """Words that no neuron surely stands for, until one is trained, which LLaVA then says."""
        loaded, workshop = self.loaded, Workshop(self.serving)
        known = {name_key(row.name) for row in loaded.pack.neurons if row.name}
        known |= {name_key(name) for name in loaded.sae.concepts}
        for word in (name for name in loaded.pack.vocabulary if name_key(name) not in known):
            own = workshop.add(loaded, [word], lambda *_: None, lambda: False)
            neuron = len(own.pack.neurons) - 1
            if own.pack.find(word).verdict != "strong":
                continue
            asked = Chooser(self.serving, own)._ask(neuron)
            if _is(asked.steered, word) and not _is(asked.random, word):
                yield {"name": word, "said": asked.steered.answer, "control": asked.random.answer}


def _within(patch: int, box: Sequence[float], size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Whether a patch's middle lies in a box of pixels, or less than a patch beside it."""
    wide, high = size[0] / grid[1], size[1] / grid[0]
    x, y = (patch % grid[1] + 0.5) * wide, (patch // grid[1] + 0.5) * high
    return box[0] - wide <= x <= box[2] + wide and box[1] - high <= y <= box[3] + high


def nearer_and_nearer(cosines: list[float | None]) -> bool:
    """Whether drawings get nearer to the word with the strength, and the control, the last, stays behind them all.

    Args:
        cosines: Of the unsteered drawing, of those at the strengths ``DRAWN``, and of the control.
    """
    if None in cosines:
        return False
    *steered, control = cosines
    return all(a < b for a, b in zip(steered, steered[1:])) and control < min(steered[1:])


def _is(said: Said, name: str) -> bool:
    return name_key(said.answer.strip().strip(".!")) == name_key(name)
