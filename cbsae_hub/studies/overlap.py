"""Do words and pictures of one thing share an SAE's features inside a LLaVA, and do maps of patches persist there?

After Olson et al., Probing the representational power of sparse autoencoders in vision models, 2025, section 5 (figures
6 and 7), which shows examples. Here every class is compared with the pictures of the others, and every picture's map
with those of the others. docs/replication.md says what the paper leaves open.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cbsae_hub.encoders.image_tokens import ImageTokenEncoder
from cbsae_hub.encoders.language import CHOSEN, NOTHING, LanguageEncoder, Question
from cbsae_hub.models import SAE
from cbsae_hub.studies.names import says
from cbsae_hub.studies.pair_tables import interval
from cbsae_hub.studies.tables import markdown_table

NAME, NOUN = "{name}", "{a}"
TEXT_TOKENS, PICTURE_TOKENS = ("prompt", "answer"), ("answer", "image")
ALL, DISTINCTIVE = "all", "distinctive"
LENGTHS = "length of the activations, no SAE"
CELLS = {
    "matched": "overlap", "shuffled": "shuffled", "difference": "difference (95 %)", "first": "own one is first, %",
}  # fmt: skip
PLACES = {"layer": "layer", "model": "model", "texts": "of texts", "pictures": "of pictures", "features": "features"}
SPREADS = {"spread_projector": "patches at the projector, %", "spread": "patches at the layer, %"}


def question_about(name: str, template: str) -> str:
    """A question about a class: ``{name}`` becomes its name up to the first comma, ``{a}`` that with an article."""
    name = name.partition(",")[0].strip()
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return template.replace(NAME, name).replace(NOUN, f"{article} {name}")


def require_unnamed(prompt: str, names: Sequence[str]) -> None:
    """Raises ValueError if the question about pictures names one of the classes, which it must not give away."""
    for name in names:
        if says(prompt, name.partition(",")[0]):
            raise ValueError(f"the question {prompt!r} names the class {name!r}: ask about pictures in other words")


@torch.no_grad()
def class_latents(
    encoder: LanguageEncoder, saes: Mapping[str, SAE], batches: Iterable[tuple[list[Question], list[int]]], classes: int
) -> dict[tuple[str, str], Tensor]:
    """Mean latents of each class, over the tokens of a kind of each question, and over the class's questions.

    Args:
        encoder: The language model, whose tokens are "all".
        saes: SAEs of its activations, by name.
        batches: Questions with the number of the class that each is about.
        classes: Number of classes.

    Returns:
        ``[classes, d_sae]`` by SAE and kind, "image", "prompt" or "answer". Where a question has no token of a kind, as
        without an image, its latents are 0.
    """
    sums = {(name, kind): torch.zeros(classes, sae.d_sae) for name, sae in saes.items() for kind in CHOSEN}
    counts = torch.zeros(classes, 1)
    for questions, owners in batches:
        inputs = encoder.answered(questions)
        for rows, own, owner in zip(encoder(inputs), inputs.kinds, owners):
            kinds = own[own != NOTHING]
            counts[owner] += 1
            for name, sae in saes.items():
                latents = sae.encode(rows).cpu()
                for kind, (number,) in CHOSEN.items():
                    if (kinds == number).any():
                        sums[name, kind][owner] += latents[kinds == number].mean(0)
    return {key: one / counts.clamp_min(1) for key, one in sums.items()}


def top_features(latents: Tensor, share: float) -> Tensor:
    """The strongest ``ceil(share * features)`` features of each row, of those above 0, ``[rows, features]`` bool."""
    count = math.ceil(share * latents.shape[1])
    order = latents.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(latents, dtype=torch.bool).scatter(1, order, True) & (latents > 0)


def distinctive(latents: Tensor) -> Tensor:
    """By how much each class's latents exceed their mean over classes, ``[classes, features]``; 0 where they do not.

    What fires in every conversation, whatever it is about, is left out.
    """
    return (latents - latents.mean(0)).clamp_min(0)


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard index of any row with any row: bool ``[n, d]`` and ``[m, d] -> [n, m]``; 0 for two empty ones."""
    first, second = first.float(), second.float()
    both = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1) - both
    return both / union.clamp_min(1)


def against_shuffled(similarities: Tensor) -> pd.DataFrame:
    """Each thing's similarity to its own partner, beside that to those of the others.

    Args:
        similarities: ``[n, n]``, the partner of row i is column i.

    Returns:
        One row per thing: ``matched``; ``shuffled``, the mean over the other columns, which is what a shuffle that
        leaves nothing in its place gives on average; and ``first``, 1 if its own partner is the most similar one, with
        m equally similar ones 1 / m.

    Raises:
        ValueError: If there are fewer than two things.
    """
    values = similarities.double().cpu().numpy()
    if len(values) < 2:
        raise ValueError(f"shuffling needs two classes or pictures, got {len(values)}")
    matched = values.diagonal()
    largest = values.max(1, keepdims=True)
    first = np.where(matched == largest[:, 0], 1 / (values == largest).sum(1), 0.0)
    shuffled = (values.sum(1) - matched) / (len(values) - 1)
    return pd.DataFrame({"matched": matched, "shuffled": shuffled, "first": first})


def summarise(things: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Means of :func:`against_shuffled`, and ``difference`` (matched less shuffled) with its interval.

    The interval, ``low`` to ``high``, has 95 % by a bootstrap over the things.
    """
    difference = interval(things["matched"] - things["shuffled"], seed)
    return {**things.mean().to_dict(), "difference": difference.pop("mean"), **difference}


def compare_words(
    texts: Mapping[tuple[str, str], Tensor], pictures: Mapping[tuple[str, str], Tensor], share: float
) -> dict[tuple[str, str, str, str], pd.DataFrame]:
    """Figure 6: overlaps of the top features of texts and of pictures, class by class.

    Args:
        texts: Latents of classes asked about without a picture, see :func:`class_latents`.
        pictures: Those of their pictures.
        share: Share of the features that are the top ones.

    Returns:
        :func:`against_shuffled` by model, tokens of texts, tokens of pictures, and features: "all", or
        :func:`distinctive` ones.
    """
    tables = {}
    for model in dict.fromkeys(name for name, _ in texts):
        for of_texts in TEXT_TOKENS:
            for of_pictures in PICTURE_TOKENS:
                pair = texts[model, of_texts], pictures[model, of_pictures]
                for features, both in ((ALL, pair), (DISTINCTIVE, tuple(map(distinctive, pair)))):
                    first, second = (top_features(one, share) for one in both)
                    tables[model, of_texts, of_pictures, features] = against_shuffled(jaccard(first, second))
    return tables


@torch.no_grad()
def patch_maps(
    encoder: ImageTokenEncoder, saes: Mapping[str, SAE], pictures: Sequence[Image.Image]
) -> dict[str, Tensor]:
    """Activity at each patch, ``[pictures, rows, columns]``: the sum of the latents of each SAE.

    :data:`LENGTHS` is the length of what all SAEs there explain, activations less ``b_dec``.
    """
    v = encoder(pictures)[:, encoder.patch_rows]
    maps = {name: sae.encode_sparse(v).values.sum(-1) for name, sae in saes.items()}
    maps[LENGTHS] = (v - next(iter(saes.values())).b_dec).norm(dim=-1)
    return {name: one.float().cpu().unflatten(1, encoder.grid) for name, one in maps.items()}


def active_patches(maps: Tensor, share: float) -> Tensor:
    """The patches above the quantile that lets this share of all pictures' patches through, bool, as the maps."""
    return maps > float(np.quantile(maps.numpy(), 1 - share))


def spread(maps: Tensor) -> Tensor:
    """The share of a picture's patches over which its activity is spread, ``[pictures]``; 0 without any.

    It is the participation ratio, (sum x)^2 / sum x^2, over the number of patches: 1 if all are as active, 1 / n for a
    single one. It needs no threshold.
    """
    flat = maps.flatten(1)
    return flat.sum(1).square() / flat.square().sum(1).clamp_min(1e-12) / flat.shape[1]


def compare_maps(projector: Mapping[str, Tensor], layer: Mapping[str, Tensor], share: float) -> dict[str, pd.DataFrame]:
    """Figure 7: intersection over union of the active patches behind the projector and at a layer.

    Args:
        projector: Maps of all pictures behind the projector, see :func:`patch_maps`.
        layer: Maps at the layer, of the same models.
        share: Share of the patches that are active.

    Returns:
        :func:`against_shuffled` by model, one row per picture, with its ``spread_projector`` and its ``spread``. Where
        in a picture things usually are is in ``shuffled``, too.
    """
    tables = {}
    for model, one in projector.items():
        first, second = (active_patches(maps, share).flatten(1) for maps in (one, layer[model]))
        spreads = {"spread_projector": spread(one).numpy(), "spread": spread(layer[model]).numpy()}
        tables[model] = against_shuffled(jaccard(first, second)).assign(**spreads)
    return tables


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of :func:`summarise`, with what says of which place each row is."""

    def cell(row: Mapping[str, Any], key: str) -> str:
        if key == "first" or key in SPREADS:
            return f"{100 * row[key]:.1f}"
        mean, low, high = (f"{round(row.get(one, 0), 3) + 0.0:.3f}" for one in (key, "low", "high"))  # 0.0: no -0.000
        return f"{mean} ({low} to {high})" if key == "difference" else mean

    lines = []
    for row in rows:
        line = {title: row[key] for key, title in PLACES.items() if key in row}
        lines.append(line | {title: cell(row, key) for key, title in (CELLS | SPREADS).items() if key in row})
    return markdown_table(pd.DataFrame(lines))
