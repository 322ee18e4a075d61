"""Steerability of each neuron: it is set, LLaVA speaks or unCLIP draws, and that is compared with its concept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.encoders.clip_like import ClipLike
from cbsae_hub.encoders.sentences import Sentences
from cbsae_hub.hub.files import claim, replace_file
from cbsae_hub.metrics.normalise import image_to_unit_interval, text_to_unit_interval
from cbsae_hub.metrics.quadrants import quadrants
from cbsae_hub.pictures import ImageDataset
from cbsae_hub.processes import claimed
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.scoring.outcomes import MODES, Drawings, Words, spread
from cbsae_hub.scoring.report import describe, origin_of
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.steering.unclip import UnclipSteerer

CHUNK = 64  # neurons whose scores are one file of a checkpoint
TO_UNIT_INTERVAL = {"text": text_to_unit_interval, "image": image_to_unit_interval}


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
        images: The data set with the rows of ``top_images``. Pushes are compared with the length of its activations.
        alpha: Value that neurons are set to, 50 in CB-SAE.
        unit: "absolute", or "p99": alpha times the neuron's 99th percentile.
        prompt: LLaVA's question.
        drawn: Number of scored neurons that unCLIP draws, evenly spread over them; None for all.
        seeds: Seeds of the drawings of each neuron.
        steps: Steps of each drawing.
        guidance: Guidance of each drawing, see :meth:`UnclipSteerer.generate`.
        main: The score that becomes the column ``steerability``: "text_white" in CB-SAE's pruning.
        seed: Seed of random directions.

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
        images: ImageDataset,
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
        self.unclip, self.pictures = unclip, pictures
        self.alpha, self.unit, self.prompt, self.drawn = alpha, unit, prompt, drawn
        self.seeds, self.steps, self.guidance, self.seed = list(seeds), steps, guidance, seed
        self.main = main or ("text_white" if llava is not None else "image_white")
        kind, _, mode = self.main.partition("_")
        if kind not in TO_UNIT_INTERVAL or mode not in MODES or (llava if kind == "text" else unclip) is None:
            raise ValueError(f"main must be text_ or image_ with unit or white, of what is scored; got {self.main!r}")
        self._words = self._drawings = None
        if llava is not None and sentences is not None:
            self._words = Words(llava, sentences, clip, images, prompt, seed)
        if unclip is not None and pictures is not None:
            self._drawings = Drawings(unclip, pictures, images, self.seeds, steps, guidance, seed)

    def choose(self, count: int | None = None) -> list[int]:
        """Neurons to score: all that have a name, or so many of them, drawn with the seed from all groups alike.

        Raises:
            ValueError: If there is none.
        """
        rows = self.frame[self.frame["name"].notna()]
        if rows.empty:
            raise ValueError("no neuron has a name: score the neurons first, or give another table")
        if count is None or count >= len(rows):
            return rows["neuron"].tolist()
        order = rows.sample(frac=1, random_state=self.seed)
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
            folder: Folder of the finished chunks; None keeps nothing.
            accelerator: The accelerator of several processes, which need a folder that all can reach.
            settings: Settings that decide the scores; a folder of others is refused.

        Returns:
            One row per neuron, docs/neuron-table.md; on every process.

        Raises:
            ValueError: If a neuron is not in the table or has no name, or the folder is of another run.
            EditError: If a neuron changes nothing of a generator's input.
            FolderInUse: If another run writes into the folder.
        """
        if unknown := sorted(set(neurons) - set(self.frame["neuron"])):
            raise ValueError(f"the table has no neuron {unknown[0]}: it has {len(self.frame)}")
        with claimed(folder, accelerator) if folder else nullcontext():
            return self._run(neurons, folder, accelerator, settings)

    def _run(
        self,
        neurons: Sequence[int],
        folder: Path | None,
        accelerator: Accelerator | None,
        settings: Mapping[str, Any] | None,
    ) -> pd.DataFrame:
        rows = self.frame.set_index("neuron").loc[list(neurons)].reset_index()
        if rows["name"].isna().any():
            raise ValueError(f"neuron {rows['neuron'][rows['name'].isna()].iloc[0]} has no name to be compared with")
        rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        if world > 1 and folder is None:
            raise ValueError("several processes need a folder to put their results in")
        if folder:
            claim(folder, {**(settings or {}), "neurons": rows["neuron"].tolist()}, "run.json")
        drawn = set(spread(rows["neuron"].tolist(), self.drawn)) if self.unclip else set()
        chunks = [rows.iloc[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        parts = {}
        for index in tqdm(range(rank, len(chunks), world), "steer", unit=f"x {CHUNK} neurons", disable=rank != 0):
            file = folder / f"chunk-{index:05d}.parquet" if folder else None
            if file is None or not file.is_file():
                parts[index] = self._score(chunks[index], drawn)
                if file:
                    with replace_file(file) as partial:
                        parts[index].to_parquet(partial, index=False)
        if accelerator:
            accelerator.wait_for_everyone()
        if folder:
            parts = {i: pd.read_parquet(folder / f"chunk-{i:05d}.parquet") for i in range(len(chunks))}
            if accelerator:
                accelerator.wait_for_everyone()  # nobody needs the folder any more
        scores = pd.concat([parts[i] for i in range(len(chunks))], ignore_index=True)
        kind = self.main.split("_")[0]
        return scores.assign(steerability=TO_UNIT_INTERVAL[kind](scores[f"steer_{self.main}"].to_numpy(np.float64)))

    def _score(self, rows: pd.DataFrame, drawn: set[int]) -> pd.DataFrame:
        """Scores of some neurons, of which those in ``drawn`` are drawn."""
        values = np.full(len(rows), self.alpha) * (rows["p99"].to_numpy() if self.unit == "p99" else 1.0)
        columns: dict[str, Any] = {"neuron": rows["neuron"].tolist(), "steer_value": values}
        if self._words is not None:
            columns |= self._words.columns(rows, values.tolist())
        frame = pd.DataFrame(columns)
        places = [place for place, neuron in enumerate(frame["neuron"]) if neuron in drawn]
        if self._drawings is None or not places:
            return frame
        images = self._drawings.columns(rows.iloc[places], values[places].tolist())
        return frame.join(pd.DataFrame(images, index=places))

    def summary(self, scores: pd.DataFrame) -> dict[str, Any]:
        """Settings, and figures of all scored neurons with the controls; for scores.json.

        Args:
            scores: See :meth:`run`.
        """
        summary = {
            "alpha": self.alpha,
            "unit": self.unit,
            "main": self.main,
            "neurons": len(scores),
            "prompt": self.prompt if self.llava else None,
            "sentences": self.sentences and self.sentences.repo_id,
            **{name: origin_of(getattr(self, name)) for name in ("llava", "clip", "unclip", "pictures")},
            "seeds": self.seeds,
            "steps": self.steps,
            "guidance": self.guidance,
            "median_length": self._words and self._words.median_length,
        }
        for column in scores.columns:
            if column.startswith("steer_") and column != "steer_value":
                summary[column.removeprefix("steer_")] = describe(scores[column])
        if self._words is not None:
            names = self.frame.set_index("neuron").loc[scores["neuron"], "name"].tolist()
            summary |= self._words.summary(scores, names, self.seed)
        both = self.frame.drop(columns="steerability", errors="ignore").merge(
            scores[["neuron", "steerability"]], on="neuron", how="left"
        )
        return summary | {"quadrants": quadrants(both)}
