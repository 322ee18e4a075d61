"""Can a concept be put into what LLaVA says, or taken out of it? SAE neurons against the difference of means.

The experiment of table 2 of Pach et al. (2025). Their code for it is not public: judge, data of the difference of means
and strengths are our choice, see docs/steering.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.pictures import ImageDataset
from cbsae_hub.scoring.outcomes import WHITE
from cbsae_hub.steering.edits import AnySteering, DiffMean, Edit, RandomDirection, Steering
from cbsae_hub.steering.latents import read_latents, weight_dtype
from cbsae_hub.steering.llava import LlavaSteerer
from cbsae_hub.studies.judges import TASKS, Case, Judge
from cbsae_hub.studies.tables import markdown_table

TOKENS = "patches"  # LLaVA reads no others
METHODS = ("sae", "diffmean", "random", "reconstruction", "plain")
SHARED = ("reconstruction", "plain")  # answers that do not depend on the neuron
MEASURES = {"insertion": ("appears", "fits", "both"), "suppression": ("removed", "kept", "both")}
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Trial:
    """One neuron, of a name, set to a value for one of TASKS, on one picture with one prompt.

    Pictures are numbered through: first the blanks, then the data set; ``tops`` are the neuron's top pictures.
    """

    neuron: int
    concept: str
    tops: tuple[int, ...]
    task: str
    value: float
    picture: int
    prompt: str


class InsertionExperiment:
    """Insertion and suppression of the concepts of neurons, by several methods.

    Insertion sets the neuron to ``alpha`` on images without the concept, suppression sets it to ``-beta`` on the
    neuron's own top images, each prompt on another of them. The methods:

    - ``sae``: that edit, in context: the activations become the edited reconstruction;
    - ``diffmean``: a step along the mean activation of the neuron's top images minus that of random images, or back,
      as long as the mean of the SAE's steps on the tokens of the same picture;
    - ``random``: the SAE's step in a random direction, which each neuron has its own;
    - ``reconstruction``: no edit, but the SAE's error is lost. It is left out with ``keep_error``;
    - ``plain``: no steering.

    "Step" means what the edit adds to the reconstruction; what the reconstruction itself does is a control of its own.

    Args:
        frame: The neuron table, with the columns ``neuron``, ``name``, ``status`` and ``top_images``: row numbers of
            ``images``.
        llava: Speaks.
        images: The data set whose rows ``top_images`` are.
        prompts: Open questions to LLaVA.
        alpha: Value of neurons for insertion.
        beta: Minus their value for suppression.
        keep_error: Whether the SAE's error is added back; in the paper it is lost.
        blanks: Images for insertion, taken in turns by the prompts; default a white one.
        others: Number of random images for the difference of means.
        max_new_tokens: Answers end there at the latest.
        seed: Seed of random images, directions, and the choice of neurons.

    Raises:
        ValueError: If a column is missing, there are no prompts or images, a prompt comes twice, or a strength is not
            positive.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        llava: LlavaSteerer,
        images: ImageDataset,
        prompts: Sequence[str],
        *,
        alpha: float = 50.0,
        beta: float = 50.0,
        keep_error: bool = False,
        blanks: Sequence[Image.Image] = (WHITE,),
        others: int = 1000,
        max_new_tokens: int = 64,
        seed: int = 0,
    ):
        if missing := {"neuron", "name", "status", "top_images"} - set(frame):
            raise ValueError(
                f"the neuron table has no {', '.join(sorted(missing))}: score the neurons again with this version"
            )
        if isinstance(prompts, str) or not len(prompts) or len(set(prompts)) < len(prompts):
            raise ValueError(f"prompts must be a list of different questions, got {prompts!r:.80}")
        if not len(blanks) or not len(images) or others < 1:
            raise ValueError("there must be at least one blank, one image and one of the others")
        if not (alpha > 0 and beta > 0):
            raise ValueError(f"alpha and beta must be positive, got {alpha!r} and {beta!r}")
        self.frame, self.llava, self.images, self.prompts = frame, llava, images, list(prompts)
        self.values = {"insertion": float(alpha), "suppression": -float(beta)}
        self.keep_error, self.blanks, self.max_new_tokens, self.seed = keep_error, list(blanks), max_new_tokens, seed
        self.methods = [name for name in METHODS if not (keep_error and name == "reconstruction")]
        order = np.random.default_rng(seed).permutation(len(images))
        self._others = [int(row) + len(self.blanks) for row in order[:others]]

    def choose(self, count: int | None = None) -> list[int]:
        """Neurons to try, drawn with the seed among those that are not dead and have a name.

        Args:
            count: Number of neurons; default, or if there are fewer, all.

        Raises:
            ValueError: If there is none.
        """
        fit = self.frame[self.frame["name"].notna() & (self.frame["status"] != "dead")]
        if fit.empty:
            raise ValueError("none of the neurons is alive and has a name")
        return sorted(fit["neuron"].sample(min(count or len(fit), len(fit)), random_state=self.seed).tolist())

    def run(self, neurons: Sequence[int], batch: int = 16) -> pd.DataFrame:
        """Tries neurons; :func:`judged` judges the answers.

        Args:
            neurons: Ids.
            batch: Images at once.

        Returns:
            One row per neuron, task, prompt and method: ``neuron``, ``concept``, ``task``, ``method``, ``image`` (row
            of the data set; -1 for a blank), ``prompt``, ``push`` (mean length of the step), ``answer``, and ``plain``,
            the answer without steering.

        Raises:
            ValueError: If a neuron does not exist, has no name or no top images.
            EditError: If a steering changes nothing of LLaVA's input.
        """
        trials = self.trials(neurons)
        means, pushes = self._look(trials, batch)
        answers = self._answers(self._steerings(trials, means, pushes), batch)
        return pd.DataFrame(
            {
                "neuron": trial.neuron,
                "concept": trial.concept,
                "task": trial.task,
                "method": method,
                "image": max(trial.picture - len(self.blanks), -1),
                "prompt": trial.prompt,
                "push": 0.0 if method in SHARED else pushes[trial.picture, trial.neuron],
                "answer": answers[_key(trial, method)],
                "plain": answers[_key(trial, "plain")],
            }
            for trial in trials
            for method in self.methods
        )

    def trials(self, neurons: Sequence[int]) -> list[Trial]:
        """Trials of every neuron with every prompt, for both tasks.

        Raises:
            ValueError: See :meth:`run`.
        """
        table, trials = self.frame.set_index("neuron"), []
        for neuron in dict.fromkeys(map(int, neurons)):
            if neuron not in table.index:
                raise ValueError(f"there is no neuron {neuron}: the table has {len(table)}")
            name, rows = table.at[neuron, "name"], [int(row) for row in table.at[neuron, "top_images"]]
            if pd.isna(name):
                raise ValueError(f"neuron {neuron} has no name: nobody could say whether its concept appears")
            if not rows or not 0 <= min(rows) <= max(rows) < len(self.images):
                raise ValueError(
                    f"neuron {neuron} has no top images, or some that the data set of {len(self.images)} images lacks: "
                    "give the images that it was scored on"
                )
            tops = tuple(row + len(self.blanks) for row in rows)
            for task, pictures in zip(TASKS, (range(len(self.blanks)), tops)):
                trials += [
                    Trial(neuron, name, tops, task, self.values[task], pictures[i % len(pictures)], prompt)
                    for i, prompt in enumerate(self.prompts)
                ]
        if not trials:
            raise ValueError("no neurons were given")
        return trials

    def _pictures(self, numbers: Sequence[int]) -> list[Image.Image]:
        blanks = len(self.blanks)
        return [self.blanks[n] if n < blanks else self.images[n - blanks]["image"] for n in numbers]

    @torch.no_grad()
    def _look(self, trials: Sequence[Trial], batch: int) -> tuple[dict[int, Tensor], dict[tuple[int, int], float]]:
        """One pass over all pictures that are needed, whatever the number of neurons.

        Returns:
            Mean activations ``[d]`` by the picture, and mean lengths of the SAE's step by the picture and the neuron.
        """
        tower = self.llava.tower
        edits: dict[int, dict[int, float]] = {}
        for trial in trials:
            edits.setdefault(trial.picture, {})[trial.neuron] = trial.value
        needed = sorted({*edits, *self._others, *(top for trial in trials for top in trial.tops)})
        means, pushes = {}, {}
        for start in tqdm(range(0, len(needed), batch), desc="look", unit=f"x {batch} images"):
            numbers = needed[start : start + batch]
            v = self.llava.activations(self._pictures(numbers))[:, tower.prefix :].to(weight_dtype(tower.sae))
            for number, x in zip(numbers, v):
                means[number] = x.mean(0)
                if number not in edits:
                    continue
                latents = read_latents(tower.sae, x)
                for neuron, value in edits[number].items():
                    step = self._edit(neuron, value).displace(x, latents).push
                    pushes[number, neuron] = float(step.norm(dim=-1).mean())
        return means, pushes

    def _edit(self, neuron: int, value: float) -> Steering:
        return Steering([Edit(neuron, value)], keep_error=self.keep_error, tokens=TOKENS)

    def _steerings(
        self, trials: Sequence[Trial], means: Mapping[int, Tensor], pushes: Mapping[tuple[int, int], float]
    ) -> dict[tuple, AnySteering | None]:
        """Steerings of the questions to LLaVA, each once, by :func:`_key`."""
        without = torch.stack([means[number] for number in self._others])
        steerings: dict[tuple, AnySteering | None] = {}
        for trial in trials:
            edit, push = self._edit(trial.neuron, trial.value), pushes[trial.picture, trial.neuron]
            with_concept = torch.stack([means[number] for number in trial.tops])
            step = push if trial.task == "insertion" else -push
            one: dict[str, AnySteering | None] = {
                "sae": edit,
                "diffmean": DiffMean.fit(with_concept, without, step, TOKENS),
                "random": RandomDirection(edit, self.seed + trial.neuron),
                "reconstruction": Steering([], tokens=TOKENS),
                "plain": None,
            }
            steerings |= {_key(trial, method): one[method] for method in self.methods}
        return steerings

    def _answers(self, steerings: Mapping[tuple, AnySteering | None], batch: int) -> dict[tuple, str]:
        answers: dict[tuple, str] = {}
        keys = list(steerings)
        for start in tqdm(range(0, len(keys), batch), desc="ask", unit=f"x {batch} answers"):
            part = keys[start : start + batch]
            pictures = self._pictures([picture for picture, *_ in part])
            prompts = [prompt for _, prompt, *_ in part]
            texts = self.llava.generate(pictures, prompts, [steerings[key] for key in part], self.max_new_tokens, batch)
            answers |= dict(zip(part, texts))
        return answers


def _key(trial: Trial, method: str) -> tuple[int, str, str, int | None]:
    """Picture, prompt, method and neuron: trials that differ in nothing else share an answer."""
    return trial.picture, trial.prompt, method, None if method in SHARED else trial.neuron


def judged(frame: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Adds a judge's verdicts to the answers of :meth:`InsertionExperiment.run`.

    Returns:
        The same rows with the columns ``concept_found`` (it is in the answer, whatever the task) and ``rest_kept``
        (see :class:`cbsae_hub.studies.judges.Verdict`).
    """
    verdicts = [
        judge(Case(row.task, row.concept, row.prompt, row.answer, row.plain))
        for row in tqdm(frame.itertuples(), desc="judge", total=len(frame), unit="answer")
    ]
    right = np.array([verdict.concept for verdict in verdicts], dtype=bool)
    return frame.assign(
        concept_found=right == (frame["task"] == "insertion").to_numpy(),
        rest_kept=np.array([verdict.rest for verdict in verdicts], dtype=bool),
    )


def summary(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Percentages by task and method, with 95 % intervals of a bootstrap over neurons.

    Suppression is counted where the plain answer names the concept: elsewhere there is nothing to remove. With that,
    ``plain`` removes 0 % by definition, and what ``reconstruction`` and ``random`` remove is chance.

    Args:
        frame: See :func:`judged`.
        seed: Seed of the bootstrap.

    Returns:
        One row per ``task``, ``method`` and ``measure``: ``percent``, ``low``, ``high``, and the numbers of ``neurons``
        and ``cases`` that count. Measures of insertion are "appears", "fits" and "both"; of suppression "removed",
        "kept" and "both".
    """
    counted = frame[(frame["task"] == "insertion") | _names_it(frame)]
    rows = []
    for task, measures in MEASURES.items():
        for method in [name for name in METHODS if name in set(frame["method"])]:
            part = counted[(counted["task"] == task) & (counted["method"] == method)]
            concept = part["concept_found"] == (task == "insertion")
            outcomes = (concept, part["rest_kept"], concept & part["rest_kept"])
            numbers = {"neurons": part["neuron"].nunique(), "cases": len(part)}
            for measure, outcome in zip(measures, outcomes):
                interval = _interval(outcome, part["neuron"], seed)
                rows.append({"task": task, "method": method, "measure": measure, **interval, **numbers})
    return pd.DataFrame(rows)


def _names_it(frame: pd.DataFrame) -> pd.Series:
    """True for every row of a trial whose plain answer names the concept."""
    plain = frame["concept_found"] & (frame["method"] == "plain")
    return plain.groupby([frame[column] for column in ("neuron", "task", "prompt")]).transform("any")


def _interval(outcome: pd.Series, neurons: pd.Series, seed: int) -> dict[str, float]:
    """Per cent of true outcomes, and the interval for other draws of neurons."""
    if outcome.empty:
        return dict.fromkeys(("percent", "low", "high"), float("nan"))
    each = outcome.groupby(neurons).agg(["sum", "count"]).to_numpy()
    drawn = np.random.default_rng(seed).integers(len(each), size=(RESAMPLES, len(each)))
    sums = each[drawn].sum(1)
    low, high = np.percentile(100 * sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return {"percent": float(100 * outcome.mean()), "low": float(low), "high": float(high)}


def as_markdown(table: pd.DataFrame) -> str:
    """A summary as a table: one row per task and method."""
    blocks = []
    for task, measures in MEASURES.items():
        lines = []
        for method, rows in table[table["task"] == task].groupby("method", sort=False):
            cells = [f"{row.percent:.1f} ({row.low:.1f} to {row.high:.1f})" for row in rows.itertuples()]
            lines.append({task: method, **dict(zip(measures, cells)), "cases": rows["cases"].iloc[0]})
        blocks.append(markdown_table(pd.DataFrame(lines, columns=[task, *measures, "cases"])))
    return "\n".join(blocks)
