"""Steerability: set one neuron, let a model speak or draw, and compare the outcome with the neuron's concept.

Source: the CB-SAE paper, section 3, for both scores; Pach et al., 2025, section 4.3, for text in CLIP's space.
"""

import string

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
