"""How well each neuron steers: it is set, LLaVA speaks or unCLIP draws, and that is compared with what it means."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.encoders.site import EditError
from cbsae_hub.hub.files import claim, replace_file
from cbsae_hub.metrics.normalise import image_to_unit_interval, text_to_unit_interval
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.metrics.steerability import image_steerability, text_steerability
from cbsae_hub.pictures import to_rgb
from cbsae_hub.scoring.first_words import ONE_WORD, FirstWords
from cbsae_hub.scoring.report import describe, mean, origin_of
from cbsae_hub.scoring.single_neurons import SingleNeurons
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.steering.unclip import UnclipSteerer
from cbsae_hub.words import name_key

CHUNK = 64  # neurons whose scores are one file of a checkpoint
LENGTH_IMAGES = 64  # whose activations' median length pushes are compared with
MODES = ("unit", "white")
WHITE = Image.new("RGB", (336, 336), "white")  # square: some preprocessing pads others with another colour
SCORED = {"text": text_to_unit_interval, "image": image_to_unit_interval}

logger = logging.getLogger(__name__)


class Outcomes:
    """What a generator makes of neurons set one at a time, and of the controls, with the check that it noticed.

    Args:
        steerer: Of which the activations of a white image are taken.
        onward: From activations ``[n, tokens, d]`` to what the generator reads, ``[n, ...]``.
        isolate: Unit vector instead of the white image.
        seed: Of the random directions.
    """

    def __init__(self, steerer: Any, onward: Callable[[Tensor], Tensor], isolate: bool, seed: int):
        sae = steerer.tower.sae
        self.stream = steerer.activations([WHITE])[0].float()
        self.neurons = SingleNeurons(sae, self.stream, isolate)
        self._onward, self._seed, self._name = onward, seed, steerer.tower.site.name
        self.plain = onward(self.neurons.plain)

    def steered(self, ids: Sequence[int], values: Sequence[float]) -> Tensor:
        """What the generator reads with each neuron set.

        Raises:
            EditError: If it reads the same as without.
        """
        read = self._onward(self.neurons.set(ids, values))
        unchanged = (read == self.plain).flatten(1).all(1).nonzero().flatten().tolist()
        if unchanged:
            raise EditError(
                f"steering had no effect: setting neuron {ids[unchanged[0]]} to {values[unchanged[0]]:g} at "
                f"{self._name} leaves what the model reads as it was. Is its decoder row zero, or is no steered token "
                "read?"
            )
        return read

    def random(self, ids: Sequence[int], values: Sequence[float]) -> Tensor:
        """What the generator reads with each image pushed as far in a random direction."""
        return self._onward(self.neurons.pushed_randomly(ids, values, self._seed))


class SteerabilityScorer:
    """Steerability of neurons by text, by images, or by both.

    Every score comes with two controls: nothing set (reconstruction only), and a random direction of the same length.

    Args:
        frame: The neuron table, with the columns ``neuron``, ``name``, ``p99`` and, for images or Pach et al.'s score,
            ``top_images``.
        llava: Speaks; None for no text scores.
        sentences: Embeds words for CB-SAE's text score.
        clip: Embeds words and images for Pach et al.'s text score; None to leave it out.
        unclip: Draws; None for no image scores.
        pictures: Embeds images for the image score.
        images: The data set whose rows ``top_images`` are. Pushes are compared with the length of its activations.
        alpha: What neurons are set to, 50 in CB-SAE.
        unit: "absolute", or "p99": alpha times the neuron's 99th percentile.
        prompt: What LLaVA is asked.
        drawn: How many of the scored neurons unCLIP draws, evenly spread over them; None for all.
        seeds: Of the drawings of each neuron.
        steps: Of each drawing.
        guidance: Of each drawing, see :meth:`UnclipSteerer.generate`.
        main: The score that becomes the column ``steerability``: "text_white" in CB-SAE's pruning.
        seed: Of random directions.

    Raises:
        ValueError: If something that a score needs is missing, or the table is of another model.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        llava: LlavaSteerer | None = None,
        sentences: Sentences | None = None,
        clip: ClipLike | None = None,
        unclip: UnclipSteerer | None = None,
        pictures: Callable[[list[Image.Image]], Tensor] | None = None,
        images: Any,
        alpha: float = 50.0,
        unit: str = "absolute",
        prompt: str = ONE_WORD,
        drawn: int | None = None,
        seeds: Sequence[int] = (0,),
        steps: int = 20,
        guidance: float = 10.0,
        main: str | None = None,
        seed: int = 0,
    ):
        if llava is None and unclip is None:
            raise ValueError("nothing to steer: give a LLaVA, an unCLIP or both")
        if llava is not None and sentences is None:
            raise ValueError("the text score needs a sentence transformer")
        if unclip is not None and pictures is None:
            raise ValueError("the image score needs a judge of pictures")
        if images is None or not len(images):
            raise ValueError("steering needs the data set on which the neurons were scored")
        if (unclip is not None or clip is not None) and "top_images" not in frame:
            raise ValueError("these scores need the neurons' top images: the column top_images")
        if unit not in ("absolute", "p99"):
            raise ValueError(f"unit must be absolute or p99, got {unit!r}")
        self.frame, self.llava, self.sentences, self.clip = frame, llava, sentences, clip
        self.unclip, self.pictures, self.images = unclip, pictures, images
        self.alpha, self.unit, self.prompt, self.drawn = alpha, unit, prompt, drawn
        self.seeds, self.steps, self.guidance, self.seed = list(seeds), steps, guidance, seed
        self.main = main or ("text_white" if llava is not None else "image_white")
        kind, _, mode = self.main.partition("_")
        if kind not in SCORED or mode not in MODES or (llava if kind == "text" else unclip) is None:
            raise ValueError(f"main must be text_ or image_ with unit or white, of what is scored; got {self.main!r}")
        self._words = llava and FirstWords(llava, prompt)
        self._length = llava and self._median_length()
        self._told = {mode: Outcomes(llava, llava.features_of, mode == "unit", seed) for mode in MODES if llava}
        self._shown = {mode: Outcomes(unclip, unclip.embeds_of, mode == "unit", seed) for mode in MODES if unclip}
        self._embedded: dict[tuple[str, int], Tensor] = {}
        self._spoken = functools.cache(self._embed_word)  # a few hundred words are said by thousands of neurons

    def choose(self, count: int | None = None) -> list[int]:
        """Neurons to score: all that have a name, or so many of them, drawn with the seed from all groups alike.

        Raises:
            ValueError: If there is none.
        """
        named = self.frame[self.frame["name"].notna()]
        if named.empty:
            raise ValueError("no neuron has a name: score the neurons first, or give another table")
        if count is None or count >= len(named):
            return named["neuron"].tolist()
        order = named.sample(frac=1, random_state=self.seed)
        place = order.groupby("group").cumcount()  # the first of each group, then the second ...
        return sorted(order.assign(place=place).sort_values("place", kind="stable")["neuron"].iloc[:count].tolist())

    def run(
        self,
        neurons: Sequence[int],
        folder: Path | None = None,
        accelerator: Accelerator | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Scores neurons, in chunks that the processes share and that are not done again.

        Args:
            neurons: Ids of named neurons.
            folder: Of the finished chunks; None keeps nothing.
            accelerator: Of several processes, which need a folder that all can reach.
            settings: What the scores depend on; a folder of others is refused.

        Returns:
            One row per neuron, docs/neuron-table.md; on every process.

        Raises:
            ValueError: If a neuron has no name, or the folder is of another run.
            EditError: If a neuron changes nothing of what a generator reads.
        """
        rows = self.frame.set_index("neuron").loc[list(neurons)].reset_index()
        if rows["name"].isna().any():
            raise ValueError(f"neuron {rows['neuron'][rows['name'].isna()].iloc[0]} has no name to be compared with")
        rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        if world > 1 and folder is None:
            raise ValueError("several processes need a folder to put their results in")
        if folder:
            claim(folder, {**(settings or {}), "neurons": rows["neuron"].tolist()}, "run.json")
        drawn = set(_spread(rows["neuron"].tolist(), self.drawn)) if self.unclip else set()
        chunks = [rows.iloc[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        parts = {}
        bar = tqdm(range(rank, len(chunks), world), desc="steer", unit=f"x {CHUNK} neurons", disable=rank != 0)
        for index in bar:
            file = folder and folder / f"chunk-{index:05d}.parquet"
            if file is None or not file.is_file():
                parts[index] = self._score(chunks[index], drawn)
                if file:
                    with replace_file(file) as partial:
                        parts[index].to_parquet(partial, index=False)
        if accelerator:
            accelerator.wait_for_everyone()
        if folder:
            parts = {i: pd.read_parquet(folder / f"chunk-{i:05d}.parquet") for i in range(len(chunks))}
        scores = pd.concat([parts[i] for i in range(len(chunks))], ignore_index=True)
        kind = self.main.split("_")[0]
        return scores.assign(steerability=SCORED[kind](scores[f"steer_{self.main}"].to_numpy(np.float64)))

    def _median_length(self) -> float:
        """Of an activation where LLaVA is steered, over images of the data set: what a push is compared with."""
        rows = _spread(range(len(self.images)), LENGTH_IMAGES)
        return float(self.llava.activations([self.images[row]["image"] for row in rows]).float().norm(dim=-1).median())

    def _score(self, rows: pd.DataFrame, drawn: set[int]) -> pd.DataFrame:
        ids = rows["neuron"].tolist()
        values = np.full(len(rows), self.alpha) * (rows["p99"].to_numpy() if self.unit == "p99" else 1.0)
        columns: dict[str, Any] = {"neuron": ids, "steer_value": values}
        values = values.tolist()
        if self.llava is not None:
            columns |= self._text(rows, ids, values)
        frame = pd.DataFrame(columns)
        chosen = [i for i, neuron in enumerate(ids) if neuron in drawn]
        if self.unclip is None or not chosen:
            return frame
        images = self._image(rows.iloc[chosen], [ids[i] for i in chosen], [values[i] for i in chosen])
        return frame.join(pd.DataFrame(images, index=chosen))

    def _text(self, rows: pd.DataFrame, ids: list[int], values: list[float]) -> dict[str, Any]:
        concepts = self.sentences(rows["name"].tolist())
        columns = {}
        for mode, outcomes in self._told.items():
            columns[f"steer_push_{mode}"] = (outcomes.neurons.displacement(ids, values) / self._length).tolist()
            for control, read in (("", outcomes.steered), ("_random", outcomes.random)):
                words = self._words(read(ids, values))
                columns[f"said_{mode}{control}"] = words
                columns[f"steer_text_{mode}{control}"] = text_steerability(self.sentences(words), concepts).tolist()
            if self.clip is not None:
                words = columns[f"said_{mode}"]
                top = self._examples(rows, "clip").sum(1)  # a cosine: the mean is as good
                spoken = torch.stack([self._spoken(word) for word in words])
                columns[f"steer_clip_{mode}"] = text_steerability(spoken, top).tolist()
        return columns

    def _image(self, rows: pd.DataFrame, ids: list[int], values: list[float]) -> dict[str, Any]:
        examples = self._examples(rows, "pictures")
        columns = {}
        for mode, outcomes in self._shown.items():
            for control, read in (("", outcomes.steered), ("_random", outcomes.random)):
                drawings = self._draw(read(ids, values))
                columns[f"steer_image_{mode}{control}"] = image_steerability(drawings, examples).tolist()
        return columns

    def _draw(self, embeds: Tensor) -> Tensor:
        """The judge's embeddings of drawings, ``[neurons, seeds, e]``."""
        jobs = [(embedding, seed) for embedding in embeds for seed in self.seeds]
        drawings = []
        for start in range(0, len(jobs), 16):
            chosen, seeds = zip(*jobs[start : start + 16])
            drawings += self.unclip.draw(torch.stack(chosen), seeds, self.steps, self.guidance)
        return self.pictures(drawings).float().unflatten(0, (len(embeds), len(self.seeds)))

    def _examples(self, rows: pd.DataFrame, judge: str) -> Tensor:
        """A judge's embeddings of the neurons' top images, ``[neurons, images, e]``, padded with zeros."""
        embed = self.clip.embed_images if judge == "clip" else self.pictures
        wanted = sorted({int(i) for top in rows["top_images"] for i in top if (judge, int(i)) not in self._embedded})
        if wanted:
            embeddings = embed([to_rgb(self.images[i]["image"]) for i in wanted]).float().cpu()
            self._embedded |= {(judge, i): one for i, one in zip(wanted, embeddings)}
        stacks = [torch.stack([self._embedded[judge, int(i)] for i in top]) for top in rows["top_images"]]
        return torch.nn.utils.rnn.pad_sequence(stacks, batch_first=True)

    def _embed_word(self, word: str) -> Tensor:
        """CLIP's embedding of a word; zeros for an empty one or one that its tokenizer cannot read."""
        try:
            return self.clip.embed_texts([word])[0] if word else self._nothing_spoken
        except ValueError:
            return self._nothing_spoken

    @property
    def _nothing_spoken(self) -> Tensor:
        return torch.zeros_like(next(iter(self._embedded.values())))

    def summary(self, scores: pd.DataFrame) -> dict[str, Any]:
        """What is said of all scored neurons, with the controls; for scores.json.

        Args:
            scores: See :meth:`run`.
        """
        told = {
            "alpha": self.alpha,
            "unit": self.unit,
            "main": self.main,
            "neurons": len(scores),
            "prompt": self.prompt if self.llava else None,
            "sentences": self.sentences and self.sentences.repo_id,
            "llava": origin_of(self.llava),
            "clip": origin_of(self.clip),
            "unclip": origin_of(self.unclip),
            "pictures": origin_of(self.pictures),
            "seeds": self.seeds,
            "steps": self.steps,
            "guidance": self.guidance,
            "median_length": self._length,
        }
        names = self.frame.set_index("neuron").loc[scores["neuron"], "name"].tolist()
        for column in scores.columns:
            if column.startswith("steer_") and column != "steer_value":
                told[column.removeprefix("steer_")] = describe(scores[column])
        if self.llava is not None:
            shuffled = np.random.default_rng(self.seed).permutation(len(scores))
            concepts = self.sentences(names)
            for mode, outcomes in self._told.items():
                words = scores[f"said_{mode}"].tolist()
                nothing = self._words(outcomes.plain)[0]
                told[f"said_{mode}"] = {
                    "reconstruction_only": nothing,
                    "different_words": len(set(filter(None, words))),
                    "is_concept": mean([name_key(word) == name_key(name) for word, name in zip(words, names)]),
                    "reconstruction_score": mean(text_steerability(self.sentences([nothing] * len(names)), concepts)),
                    "shuffled_score": mean(text_steerability(self.sentences(words), concepts[shuffled])),
                }
        both = self.frame.drop(columns="steerability", errors="ignore").merge(
            scores[["neuron", "steerability"]], on="neuron", how="left"
        )
        return told | {"quadrants": quadrants(both)}


def _spread(rows: Sequence[int], count: int | None) -> list[int]:
    """So many of them, evenly spread; all if there are no more."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]
