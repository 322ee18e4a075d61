"""Steerability: set one neuron, let a model speak or draw, and compare the outcome with the neuron's concept.

Source: the CB-SAE paper, section 3, for both scores; Pach et al., 2025, section 4.3, for text in CLIP's space.
"""

import math
import string

import pandas as pd
import scipy.stats
import torch.nn.functional as F
from torch import Tensor


def words(answer: str) -> list[str]:
    """The words of an answer, in lower case, without punctuation at the ends."""
    return [word for part in answer.lower().split() if (word := part.strip(string.punctuation))]


def first_word(answer: str) -> str:
    """The first of an answer's words; empty if there is none."""
    return next(iter(words(answer)), "")


def text_steerability(spoken: Tensor, concepts: Tensor) -> Tensor:
    """Cosine of the words that were spoken ``[neurons, e]`` to the concepts ``[neurons, e]``: ``[neurons]``, -1 to 1.

    CB-SAE's score: embeddings of the first word and of the neuron's concept, by a sentence transformer. Pach et al.'s:
    CLIP's embedding of the word, and the mean of the image embeddings of the neuron's 16 top images. A row of zeros
    stands for an empty answer and scores 0.

    Raises:
        ValueError: If the forms differ.
    """
    if spoken.ndim != 2 or spoken.shape != concepts.shape:
        raise ValueError(f"expected two of [neurons, e], got {list(spoken.shape)} and {list(concepts.shape)}")
    return F.cosine_similarity(spoken, concepts, dim=-1)


def image_steerability(drawings: Tensor, examples: Tensor) -> Tensor:
    """Mean cosine of drawings to the images on which a neuron is most active.

    Args:
        drawings: ``[neurons, drawings, e]``: embeddings of drawings with the neuron set.
        examples: ``[neurons, images, e]``: embeddings of its top images. Rows of zeros are left out: a neuron may be
            active on fewer.

    Returns:
        ``[neurons]``, -1 to 1; NaN for neurons without images.

    Raises:
        ValueError: If the forms do not fit.
    """
    if drawings.ndim != 3 or examples.ndim != 3 or drawings.shape[::2] != examples.shape[::2]:
        forms = f"{list(drawings.shape)} and {list(examples.shape)}"
        raise ValueError(f"expected [neurons, drawings, e] and [neurons, images, e], got {forms}")
    counts = examples.any(-1).sum(1, keepdim=True)
    mean = F.normalize(examples, dim=-1).sum(1) / counts  # 0 / 0 is NaN
    return (F.normalize(drawings, dim=-1) @ mean[..., None]).mean((1, 2))


def correlation_of_generators(frame: pd.DataFrame, first: str, second: str) -> dict[str, float]:
    """Pearson correlation, over concepts, of steerability by one generator with that by another.

    If it is low, steerability belongs to neuron and generator together. CB-SAE paper, second version: .06 over 1,329
    concepts that LLaVA's and unCLIP's bottlenecks share.

    Args:
        frame: Rows of the neuron table with the columns of both scores. The concept of a neuron is the one that it was
            trained for (``designated``), else its name; neurons of one concept count as their mean.
        first: Column of one score, ``steer_text_white`` say.
        second: Column of the other, ``steer_image_white`` say.

    Returns:
        ``correlation``, its two-sided ``p``, and the number of ``concepts`` with both scores. The first two are NaN if
        there are fewer than three, or one of the scores is the same for all.
    """
    concept = frame["name"]
    if "designated" in frame:
        concept = frame["designated"].where(frame["designated"].notna(), concept)
    means = frame[[first, second]].dropna().groupby(concept).mean()
    if len(means) < 3 or (means.nunique() < 2).any():
        return {"correlation": math.nan, "p": math.nan, "concepts": len(means)}
    pearson = scipy.stats.pearsonr(means[first], means[second])
    return {"correlation": float(pearson.statistic), "p": float(pearson.pvalue), "concepts": len(means)}
