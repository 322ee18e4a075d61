"""Drawings of features of a text encoder: a model that sees them names each feature, and a CLIP tests the name.

After Olson et al. (2025), section 4.2 and table 3. Features are kept that fire on descriptive words. Prompts are drawn
with and without a feature's direction; a model says what has changed, and the keyword that is most of this feature's
own becomes its attribute. On other prompts a CLIP then compares the drawings with the prompt, and with the prompt and
the attribute. The paper has no controls; ours are a random direction that pushes as far, and another feature's
attribute.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import regex
import torch
from PIL import Image
from tqdm import tqdm

from cbsae_hub.data.hierarchy import open_wordnet
from cbsae_hub.encoders import ClipLike
from cbsae_hub.hub.files import read_text
from cbsae_hub.steering import Edit, RandomDirection, StableDiffusionSteerer, Steering
from cbsae_hub.steering.edits import AnySteering
from cbsae_hub.studies.explainers import Explainer
from cbsae_hub.studies.result_file import ResultFile

DIFFERENCES = (
    "The first {n} pictures are drawn from prompts. The other {n} are drawn from the same prompts with one change. "
    "Name what the other pictures have and the first ones have not: keywords only, separated by commas."
)
"""The question to a model that sees all pictures at once. The paper's is not published: this is ours."""
SHORTEST = 3  # letters of a descriptive word in WordNet, which has "a", "in" and "no" as nouns


def descriptive_words(source: str) -> Callable[[str], bool]:
    """Tells nouns, adjectives and adverbs from other words.

    Args:
        source: A text file of such words, one a line; or "wordnet", where a word counts if most of what it has been
            used for is not a verb.

    Raises:
        ImportError: If WordNet is asked for without nltk.
        LookupError: If WordNet is not on this machine.
        OSError: If there is no such file.
    """
    if source != "wordnet":
        listed = {word for line in read_text(Path(source)).splitlines() for word in line.casefold().split()}
        return lambda word: word.casefold() in listed
    wordnet = open_wordnet()

    def is_descriptive(word: str) -> bool:
        if len(word) < SHORTEST:
            return False
        uses: Counter[bool] = Counter()
        for synset in wordnet.synsets(word):
            uses[synset.pos() == "v"] += 1 + sum(lemma.count() for lemma in synset.lemmas())
        return uses[False] > uses[True]

    return is_descriptive


def keep_descriptive(frame: pd.DataFrame, is_descriptive: Callable[[str], bool]) -> pd.DataFrame:
    """The neurons that are alive and whose name, the word on which they fire, is descriptive.

    Raises:
        ValueError: If there are none.
    """
    alive = frame[frame["name"].notna() & (frame["status"] != "dead")]
    descriptive = alive[[is_descriptive(name) for name in alive["name"]]]
    if descriptive.empty:
        raise ValueError("no neuron fires on a descriptive word: give another list, or names by `cbsae score --words`")
    return descriptive.sort_values("neuron", ignore_index=True)


@dataclass(frozen=True)
class Drawer:
    """Drawings of prompts with and without a feature's direction.

    Attributes:
        steerer: The pipeline, with the SAE and its neuron table.
        strength: Length of the push, in 99th percentiles of the neuron's activation.
        tokens: "all", or "words", the prompt's own.
        seeds: Drawings of each prompt.
        options: Further arguments of :meth:`StableDiffusionSteerer.generate`.
        seed: Of random directions.
    """

    steerer: StableDiffusionSteerer
    strength: float
    tokens: str
    seeds: Sequence[int]
    options: Mapping[str, Any]
    seed: int = 0

    def plain(self, prompts: Sequence[str]) -> list[Image.Image]:
        """Drawings without a change: each prompt once per seed."""
        return self._draw(prompts, None)

    def steered(self, neuron: int, prompts: Sequence[str]) -> list[Image.Image]:
        """Drawings with a neuron's direction."""
        return self._draw(prompts, self._steering(neuron))

    def random(self, neuron: int, prompts: Sequence[str]) -> list[Image.Image]:
        """Drawings with a random direction, pushed as far as by the neuron."""
        return self._draw(prompts, RandomDirection(self._steering(neuron), self.seed + neuron))

    def _steering(self, neuron: int) -> Steering:
        return Steering([Edit(neuron, self.strength, "add")], keep_error=True, tokens=self.tokens, unit="p99")

    def _draw(self, prompts: Sequence[str], steering: AnySteering | None) -> list[Image.Image]:
        return self.steerer.generate(prompts, steering, self.seeds, **self.options)


def keywords(answer: str) -> list[str]:
    """Keywords of an answer: what commas, full stops and lines part, in small letters."""
    parts = regex.split(r"[,;.\n]+", answer.casefold())
    return list(dict.fromkeys(filter(None, (part.strip(" \"'-*") for part in parts))))


def new_keywords(
    explain: Explainer,
    plain: Sequence[Image.Image],
    steered: Sequence[Image.Image],
    before: Sequence[Sequence[str]] | None,
) -> list[str]:
    """Keywords that a model gives for what has changed from pictures to steered pictures of the same prompts.

    Args:
        explain: The model, with its question.
        plain: Pictures without a change.
        steered: The same with one.
        before: Keywords that the model gives for each picture without the change, where it is asked what a picture
            shows: what is new then counts. None where it sees all at once and is asked for differences.
    """
    if before is None:
        return keywords(explain([*plain, *steered]))
    return [word for picture, old in zip(steered, before) for word in keywords(explain([picture])) if word not in old]


def attributes(words: Mapping[int, Sequence[str]]) -> dict[int, str | None]:
    """The keyword of each feature that is most its own: count times inverse document frequency; None without any.

    A document is a feature: log(features / features that have the keyword). Ties go to the more frequent keyword, then
    by the alphabet.
    """
    counts = {neuron: Counter(own) for neuron, own in words.items()}
    having = Counter(word for count in counts.values() for word in count)

    def best(count: Counter[str]) -> str:
        def rank(word: str) -> tuple[float, int, str]:
            return -count[word] * float(np.log(len(counts) / having[word])), -count[word], word

        return min(count, key=rank)

    return {neuron: best(count) if count else None for neuron, count in counts.items()}


def find_attributes(
    drawer: Drawer,
    explain: Explainer,
    neurons: Sequence[int],
    prompts: Sequence[str],
    together: bool,
    results: ResultFile,
) -> dict[int, str | None]:
    """The attribute of each neuron.

    Args:
        drawer: Draws the prompts.
        explain: Says what pictures show, or with ``together`` what tells them apart.
        neurons: The neurons.
        prompts: The prompts.
        together: See ``explain``.
        results: The file of keywords.
    """
    plain = drawer.plain(prompts)
    before = None if together else results.get("before", lambda: [keywords(explain([picture])) for picture in plain])
    words: dict[int, list[str]] = {}
    for neuron in tqdm(neurons, desc="attributes", unit="neuron"):

        def ask(neuron: int = neuron) -> list[str]:
            return new_keywords(explain, plain, drawer.steered(neuron, prompts), before)

        words[neuron] = results.get(f"keywords {neuron}", ask)
    return attributes(words)


def check_attributes(
    drawer: Drawer, judge: ClipLike, names: Mapping[int, str], prompts: Sequence[str], results: ResultFile
) -> pd.DataFrame:
    """Compares drawings of prompts with the prompts and the neurons' attributes.

    Args:
        drawer: Draws the prompts.
        judge: A CLIP.
        names: The attribute of each neuron.
        prompts: Prompts that have not given the attributes.
        results: The file of cosines.

    Returns:
        A row per neuron and prompt: ``neuron``, ``attribute``, ``prompt``, and a cosine for each kind of picture and of
        text, ``steered|attribute`` for one.

    Raises:
        ValueError: If there are fewer than two attributes: none then is another feature's.
    """
    if len(set(names.values())) < 2:
        raise ValueError(
            f"{len(set(names.values()))} attributes were found, a test takes two: steer further, or ask more"
        )
    plain = drawer.plain(prompts)
    rows = []
    for (neuron, own), other in zip(tqdm(names.items(), desc="check", unit="neuron"), _others(names, drawer.seed)):

        def compare(neuron: int = neuron, own: str = own, other: str = other) -> dict[str, list[float]]:
            images = {"original": plain, "steered": drawer.steered(neuron, prompts),
                      "random": drawer.random(neuron, prompts)}  # fmt: skip
            further = {"attribute": own, "other": other}
            texts = {kind: [with_attribute(prompt, word) for prompt in prompts] for kind, word in further.items()}
            return cosines(judge, images, {"prompt": prompts, **texts})

        columns = results.get(f"cosines {neuron}", compare)
        rows.append(pd.DataFrame({"neuron": neuron, "attribute": own, "prompt": list(prompts), **columns}))
    return pd.concat(rows, ignore_index=True)


def _others(names: Mapping[int, str], seed: int) -> list[str]:
    """For each feature the attribute of another, drawn at random among those that differ."""
    rng, words = np.random.default_rng(seed), list(names.values())
    return [str(rng.choice([other for other in words if other != own])) for own in words]


@torch.no_grad()
def cosines(
    judge: ClipLike, images: Mapping[str, Sequence[Image.Image]], texts: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    """Mean cosine of each prompt's pictures with each of its texts.

    Args:
        judge: A CLIP.
        images: For each kind pictures, all seeds of the first prompt first.
        texts: For each kind a text per prompt.

    Returns:
        A cosine per prompt, for each kind of pictures and of texts, joined by a bar.
    """
    embedded = {kind: judge.embed_texts(list(lines), ["{}"]).cpu() for kind, lines in texts.items()}
    columns = {}
    for kind, pictures in images.items():
        views = judge.embed_images(list(pictures)).cpu()
        for words, rows in embedded.items():
            columns[f"{kind}|{words}"] = (views.unflatten(0, (len(rows), -1)) * rows[:, None]).sum(-1).mean(1).tolist()
    return columns


def with_attribute(prompt: str, attribute: str) -> str:
    """A prompt that asks for an attribute too."""
    return f"{prompt}, {attribute}"
