"""Steerability: set one neuron, let a model speak or draw, and compare what comes with what the neuron stands for.

Source: the CB-SAE paper, section 3, for both scores; Pach et al., 2025, section 4.3, for text in CLIP's space.
"""

import string

import torch.nn.functional as F
from torch import Tensor


def words(answer: str) -> list[str]:
    """What stands between white space, in lower case, without punctuation at the ends."""
    return [word for part in answer.lower().split() if (word := part.strip(string.punctuation))]


def first_word(answer: str) -> str:
    """The first of an answer's words; empty if there is none."""
    return next(iter(words(answer)), "")


def text_steerability(said: Tensor, concepts: Tensor) -> Tensor:
    """Cosine of what was said to what was meant.

    CB-SAE's score: embeddings of the first word and of the neuron's concept, by a sentence transformer. Pach et al.'s:
    CLIP's embedding of the word, and the mean of the image embeddings of the neuron's 16 top images.

    Args:
        said: ``[neurons, e]``; a row of zeros stands for an empty answer and scores 0.
        concepts: ``[neurons, e]``.

    Returns:
        ``[neurons]``, -1 to 1.

    Raises:
        ValueError: If the forms differ.
    """
    if said.ndim != 2 or said.shape != concepts.shape:
        raise ValueError(f"expected two of [neurons, e], got {list(said.shape)} and {list(concepts.shape)}")
    return F.cosine_similarity(said, concepts, dim=-1)


def image_steerability(drawn: Tensor, examples: Tensor) -> Tensor:
    """Mean cosine of drawings to the images on which a neuron is most active.

    Args:
        drawn: ``[neurons, drawings, e]``: embeddings of what was drawn with the neuron set.
        examples: ``[neurons, images, e]``: embeddings of its top images. Rows of zeros are left out: a neuron may be
            active on fewer.

    Returns:
        ``[neurons]``, -1 to 1; NaN for neurons without images.

    Raises:
        ValueError: If the forms do not fit.
    """
    if drawn.ndim != 3 or examples.ndim != 3 or len(drawn) != len(examples) or drawn.shape[2] != examples.shape[2]:
        raise ValueError(
            "expected [neurons, drawings, e] and [neurons, images, e], got "
            f"{list(drawn.shape)} and {list(examples.shape)}"
        )
    there = examples.any(-1)
    mean = F.normalize(examples, dim=-1).sum(1) / there.sum(1, keepdim=True)  # 0 / 0 is NaN
    return (F.normalize(drawn, dim=-1) @ mean[..., None]).mean((1, 2))
