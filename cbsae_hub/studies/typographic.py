"""Typographic attacks on CLIP, defended by an SAE, by a learnt prefix, and by both.

After "Steering CLIP's vision transformer with sparse autoencoders", section 7.2. Features that are more active on
attacked pictures than on the same pictures without words are set to zero, with the SAE's error kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cbsae_hub.data.typographic import Attack, Benchmark, LabelledImages
from cbsae_hub.encoders.prompts import embed_prompts
from cbsae_hub.metrics import find_features
from cbsae_hub.steering import ClipZeroShotSteerer, Edit, Steering
from cbsae_hub.steering.latents import RawNeurons, decoder_rows, read_latents, weight_dtype
from cbsae_hub.studies.defense_prefix import DefensePrefix
from cbsae_hub.studies.tables import markdown_table

DEFENCES = ("none", "prefix", "SAE", "prefix and SAE", "random features", "raw neurons")
TAUS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LAMBDAS = (0.2, 0.3, 0.4, 0.6, 1.0)
BATCH = 64
CHUNK = 256  # neurons at once: of a wide SAE, thousands may be set to zero
DENSE_BATCH = 16  # images at once where latents of all neurons are held


@dataclass(frozen=True)
class Views:
    """Activations of pictures, and the right answers.

    Attributes:
        v: Activations at the SAE's block, ``[n, tokens, d]``.
        labels: Numbers of the classes, ``[n]``.
        words: Numbers of the classes that are written on them, ``[n]``; None if nothing is.
    """

    v: Tensor
    labels: Tensor
    words: Tensor | None


@dataclass(frozen=True)
class TypographicSettings:
    """Settings to try; see :class:`cbsae_hub.pipeline.sections.TypographicSection`."""

    taus: Sequence[float] = TAUS
    lambdas: Sequence[float] = LAMBDAS
    templates: Sequence[str] = ("a photo of a {}.",)
    prefix_rates: Sequence[float] = (0.002,)
    prefix: Mapping[str, int] = field(default_factory=dict)  # epochs and batch of DefensePrefix.fit


class TypographicStudy:
    """Finds features and learns a prefix on some pictures, chooses on others, and measures on a third kind.

    Args:
        steerer: The CLIP with the SAE. Its vocabulary is the classes of the three kinds of pictures.
        template: Prompt with ``{}`` for a class, with which pictures are classified.
        finding: Clean pictures, on which and on their attacked copies features are found and the prefix is learnt.
        validation: Other ones, on which tau, lambda and the prefix's learning rate are chosen.
        test: A third kind, on which the defences are compared.
        attack: Writes words on pictures.
        benchmarks: Published attacks, by their names.
        settings: What is tried.

    Raises:
        ValueError: If a benchmark is called "test".
    """

    def __init__(
        self,
        steerer: ClipZeroShotSteerer,
        template: str,
        finding: LabelledImages,
        validation: LabelledImages,
        test: LabelledImages,
        attack: Attack,
        benchmarks: Mapping[str, Benchmark],
        settings: TypographicSettings,
    ):
        if "test" in benchmarks:
            raise ValueError("a benchmark cannot be called test: that is what the rows of the held-out pictures say")
        self.classes, self.template, self.attack, self.settings = steerer.vocabulary, template, attack, settings
        raw = RawNeurons(steerer.tower.sae.d_in, steerer.tower.layer)
        self.steerers = {"SAE": steerer, "raw neurons": steerer.with_sae(raw)}
        self.model, self.tokenizer, self.text_by_class = steerer.model, steerer.tokenizer, steerer.texts
        self.pictures = {"finding": finding, "validation": validation, "test": test}
        self.clean = {name: self._see(images, self.classes) for name, images in self.pictures.items()}
        # Classes, prompt, attacked and clean pictures of each benchmark.
        self.benchmarks: dict[str, tuple[Sequence[str], str, Views, Views | None]] = {}
        for name, one in benchmarks.items():
            clean = None if one.clean is None else self._see(one.clean, one.classes)
            self.benchmarks[name] = one.classes, one.template, self._see(one.attacked, one.classes), clean

    @torch.no_grad()
    def _see(self, images: LabelledImages, classes: Sequence[str]) -> Views:
        numbers = {name: number for number, name in enumerate(classes)}
        starts = tqdm(range(0, len(images), BATCH), desc="look", unit=f"x {BATCH} images", leave=False)
        parts = [
            self.steerers["SAE"].readable(
                [images.open(i) for i in range(start, min(start + BATCH, len(images)))], BATCH
            )
            for start in starts
        ]
        v = torch.cat(parts)
        labels, words = (
            None if names is None else torch.tensor([numbers[name] for name in names], device=v.device)
            for names in (images.labels, images.words)
        )
        assert labels is not None
        return Views(v, labels, words)

    def run(self, seed: int) -> dict[str, Any]:
        """One run: attacks, prefix and random features are drawn with the seed.

        Returns:
            ``rows`` (figures of each defence on each set of pictures), ``sweep`` (those on the validation pictures for
            each tau and lambda), ``chosen`` and ``examples``, as JSON has them.
        """
        attacked = {
            name: self._see(images.attacked(self.attack, self.classes, seed), self.classes)
            for name, images in self.pictures.items()
        }
        latents = {name: self._mean_latents(name, attacked["finding"]) for name in self.steerers}
        sweep = [row for name in self.steerers for row in self._sweep(name, latents[name], attacked["validation"])]
        best = {
            name: max((row for row in sweep if row["neurons_of"] == name), key=lambda row: (_sum(row), -row["size"]))
            for name in self.steerers
        }
        features = {name: self._features(name, latents[name], row) for name, row in best.items()}
        alive = (latents["SAE"] > 0).any(0).nonzero().flatten().tolist()
        others = sorted(set(alive) - set(features["SAE"]))
        count = min(len(features["SAE"]), len(others))
        drawn = np.random.default_rng([seed, 9]).choice(others, count, replace=False).tolist() if count else []
        prefix, rate, reference = self._learn_prefix(seed, attacked)
        # Steerer, neurons that are set to zero, and whether texts have the prefix.
        plans: dict[str, tuple[str, list[int], bool]] = {
            "none": ("SAE", [], False),
            "prefix": ("SAE", [], True),
            "SAE": ("SAE", features["SAE"], False),
            "prefix and SAE": ("SAE", features["SAE"], True),
            "random features": ("SAE", drawn, False),
            "raw neurons": ("raw neurons", features["raw neurons"], False),
        }
        test = self.classes, self.template, attacked["test"], self.clean["test"]
        rows: list[dict[str, Any]] = []
        for name, (classes, template, with_words, without) in {"test": test, **self.benchmarks}.items():
            texts = {False: embed_prompts(self.model, self.tokenizer, classes, [template], None)}
            with torch.no_grad():
                texts[True] = prefix.texts(classes, [template])
            answers = {}
            for defence, (steerer, numbers, has_prefix) in plans.items():
                names = texts[has_prefix]
                answers[defence] = self._answers(steerer, with_words, numbers, names)
                clean = None if without is None else self._answers(steerer, without, numbers, names)
                rows.append(
                    {"seed": seed, "pictures": name, "defence": defence, "size": len(numbers)}
                    | _figures(answers[defence], with_words, clean, without)
                )
            if name == "test":
                examples = self._examples(answers, with_words)
        chosen = {name: {key: row[key] for key in ("tau", "lambda", "size")} for name, row in best.items()}
        return {
            "rows": rows,
            "sweep": [{"seed": seed, **row} for row in sweep],
            "chosen": {**chosen, "prefix": {"rate": rate}},
            "validation": reference,
            "examples": examples,
        }

    @torch.no_grad()
    def _mean_latents(self, name: str, attacked: Views) -> Tensor:
        """Mean latents of the finding pictures, clean and attacked, ``[2, neurons]``; of each, the mean over tokens."""
        sae, means = self.steerers[name].tower.sae, []
        for v in (self.clean["finding"].v, attacked.v):
            parts = [sae.encode(part.to(weight_dtype(sae))).mean(1).sum(0) for part in v.split(DENSE_BATCH)]
            means.append(torch.stack(parts).sum(0) / len(v))
        return torch.stack(means)

    def _features(self, name: str, latents: Tensor, row: Mapping[str, Any]) -> list[int]:
        """The neurons of one tau and lambda; none without a tau."""
        if row["tau"] is None:
            return []
        attribute = torch.tensor([False, True], device=latents.device)
        return widen(self.steerers[name].tower.sae, find_features(latents, attribute, row["tau"]), row["lambda"])

    def _sweep(self, name: str, latents: Tensor, attacked: Views) -> list[dict[str, Any]]:
        """Figures on the validation pictures for each tau and lambda, and without any features."""
        clean = self.clean["validation"]
        measured: dict[tuple[int, ...], dict[str, Any]] = {}
        rows: list[dict[str, Any]] = []
        grid: list[tuple[float | None, float | None]] = [
            (None, None),
            *product(self.settings.taus, self.settings.lambdas),
        ]
        for tau, closeness in tqdm(grid, desc=f"sweep of {name}", leave=False):
            row = {"neurons_of": name, "tau": tau, "lambda": closeness}
            features = tuple(self._features(name, latents, row))
            if features not in measured:
                answers = [self._answers(name, views, features, self.text_by_class) for views in (attacked, clean)]
                figures = _figures(answers[0], attacked, answers[1], clean)
                measured[features] = {key: figures[key] for key in ("attacked", "clean")}
            rows.append({**row, "size": len(features), **measured[features]})
        return rows

    def _learn_prefix(self, seed: int, attacked: Mapping[str, Views]) -> tuple[DefensePrefix, float, dict[str, Any]]:
        """The prefix whose learning rate is the best on the validation pictures, that rate, and what it does there."""
        embed, labels = self.steerers["SAE"].embed, self.clean["finding"].labels
        embeddings = embed(self.clean["finding"].v), embed(attacked["finding"].v)
        tried = []
        for rate in self.settings.prefix_rates:
            prefix = DefensePrefix(self.model, self.tokenizer, seed)
            options: dict[str, Any] = {**self.settings.prefix, "rate": rate}
            prefix.fit(*embeddings, labels, self.classes, self.settings.templates, **options)
            with torch.no_grad():
                texts = prefix.texts(self.classes, [self.template])
            both = attacked["validation"], self.clean["validation"]
            answers = [self._answers("SAE", views, (), texts) for views in both]
            figures = _figures(answers[0], both[0], answers[1], both[1])
            tried.append((prefix, rate, {key: figures[key] for key in ("attacked", "clean")}))
        return max(tried, key=lambda one: _sum(one[2]))

    @torch.no_grad()
    def _answers(self, name: str, views: Views, features: Sequence[int], texts: Tensor) -> Tensor:
        """Numbers of the classes that pictures are taken for, ``[n]``, with neurons set to zero."""
        steerer, parts = self.steerers[name], []
        sae, chunks = steerer.tower.sae, [features[i : i + CHUNK] for i in range(0, len(features), CHUNK)]
        # Decoders are linear, so that what is taken away can be added up.
        steerings = [Steering([Edit(neuron, 0.0) for neuron in chunk], keep_error=True) for chunk in chunks]
        for v in views.v.split(BATCH):
            if steerings:  # all tokens as those of one picture: neurons and tokens at once
                x = v.flatten(0, 1).to(weight_dtype(sae))
                latents = read_latents(sae, x)
                pushes = torch.stack([steering.displace(x, latents).push for steering in steerings])
                v = (x + pushes.sum(0)).unflatten(0, v.shape[:2]).to(v.dtype)
            parts.append((steerer.embed(v) @ texts.T).argmax(-1))
        return torch.cat(parts)

    def _examples(self, answers: Mapping[str, Tensor], attacked: Views, count: int = 6) -> list[dict[str, Any]]:
        """The first attacked pictures whose answer without defence is the word; if too few, the first others follow."""
        assert attacked.words is not None
        reads = answers["none"].eq(attacked.words)
        order = torch.cat([reads.nonzero().flatten(), (~reads).nonzero().flatten()])[:count].tolist()
        return [
            {
                "picture": i,
                "label": self.classes[int(attacked.labels[i])],
                "answers": {name: self.classes[int(each[i])] for name, each in answers.items()},
            }
            for i in order
        ]


@torch.no_grad()
def widen(sae: Any, features: Tensor, closeness: float) -> list[int]:
    """The features, and all others whose direction has a cosine above ``closeness`` with that of one of them.

    Args:
        sae: The SAE.
        features: Neurons, ``[n]``.
        closeness: The paper's lambda; 1 adds nothing.

    Returns:
        Neurons, ascending.
    """
    if not len(features):
        return []
    rows = F.normalize(decoder_rows(sae, range(sae.d_latent)).float(), dim=-1)
    close = (rows @ rows[features].T).amax(1) > closeness
    close[features] = True
    return close.nonzero().flatten().tolist()


def _sum(row: Mapping[str, Any]) -> float:
    """The figure by which settings are chosen: attacked pictures and clean ones count alike."""
    return row["attacked"] + row["clean"]


def _figures(answers: Tensor, attacked: Views, clean_answers: Tensor | None, clean: Views | None) -> dict[str, Any]:
    """Percentages of right answers, and of answers that are the written word."""

    def percent(hits: Tensor) -> float:
        return 100 * hits.float().mean().item()

    assert attacked.words is not None
    return {
        "attacked": percent(answers.eq(attacked.labels)),
        "word": percent(answers.eq(attacked.words)),
        "clean": None if clean_answers is None or clean is None else percent(clean_answers.eq(clean.labels)),
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds and their standard deviations (``..._spread``; NaN of a single seed).

    Args:
        rows: ``rows`` of :meth:`TypographicStudy.run`, of all seeds.

    Returns:
        One row per ``pictures`` and ``defence``: ``size``, ``attacked``, ``word``, ``clean`` in per cent, and
        ``price``, the points of ``clean`` that the defence costs.
    """
    rows = rows.assign(clean=rows["clean"].astype(float))
    none = rows[rows["defence"] == "none"].set_index(["seed", "pictures"])["clean"]
    before = none.reindex(pd.MultiIndex.from_frame(rows[["seed", "pictures"]])).to_numpy()
    rows = rows.assign(price=before - rows["clean"])
    groups = rows.groupby(["pictures", "defence"], sort=False)[["size", "attacked", "word", "clean", "price"]]
    return groups.mean().join(groups.std(ddof=1), rsuffix="_spread").reset_index()


def as_markdown(table: pd.DataFrame, seeds: int) -> str:
    """A summary as it stands in the documentation."""

    def cell(row: Any, column: str, digits: int = 1) -> str:
        mean, spread = row[column], row[f"{column}_spread"]
        if pd.isna(mean):
            return "-"
        return f"{mean:.{digits}f}" + ("" if pd.isna(spread) else f" ± {spread:.{digits}f}")

    lines = pd.DataFrame(
        {
            "pictures": row["pictures"],
            "defence": row["defence"],
            "neurons set to 0": cell(row, "size", 0),
            "attacked, %": cell(row, "attacked"),
            "the word, %": cell(row, "word"),
            "clean, %": cell(row, "clean"),
            "price, points": cell(row, "price"),
        }
        for _, row in table.iterrows()
    )
    return (
        f"Right answers to attacked and to clean pictures, answers that are the written word, and what a defence costs "
        f"on clean pictures; means over seeds ({seeds}) ± their standard deviation.\n\n{markdown_table(lines)}"
    )
