"""Effects of neurons on CLIP's distribution over a vocabulary: the scores of "Steering CLIP's vision transformer".

P are distributions before steering and P~ after it, ``[images, vocabulary]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True)
class Effect:
    """Effect of steering on the distributions of some images.

    Attributes:
        before: P, ``[images, vocabulary]``.
        after: P~, ``[images, vocabulary]``.
    """

    before: Tensor
    after: Tensor

    @property
    def delta_p(self) -> Tensor:
        """Equation 4 with its sign: ``mean_i (P~_i - P_i)``, ``[vocabulary]``."""
        return (self.after - self.before).mean(0)

    @property
    def s_f(self) -> float:
        """Equation 5 summed over the vocabulary: ``sum_v mean_i (P~_i - P_i)^2``, 0 to 2; 1/n if n words share all."""
        return float((self.after - self.before).square().mean(0).sum())

    @property
    def total_variation(self) -> float:
        """Half the sum of ``|delta_p|``: the probability that has moved, 0 to 1."""
        return float(self.delta_p.abs().sum() / 2)


@dataclass(frozen=True)
class ZeroShotScores:
    """Scores of neurons at one strength; all tensors are ``[neurons]``.

    Attributes:
        neurons: Ids.
        strength: Value that their latents were set to; infinite for the asymptote.
        s_f: See :attr:`Effect.s_f`.
        largest_delta: The largest ``|delta_p|`` of a word.
        total_variation: See :attr:`Effect.total_variation`.
        concept: Place in the vocabulary of the word that gains most.
        distance: D_f of equation 11, ``sum_v P(v|f) |v - mean of all v|``, where P(v|f) is the mean P~.
        vocabulary: The words.
    """

    neurons: Tensor
    strength: float
    s_f: Tensor
    largest_delta: Tensor
    total_variation: Tensor
    concept: Tensor
    distance: Tensor
    vocabulary: tuple[str, ...]

    @property
    def layer_s(self) -> float:
        """Equation 6: the mean of S_f."""
        return float(self.s_f.mean())

    def share_above(self, gamma: float = 0.1) -> float:
        """Equation 7: the share of neurons with S_f above gamma."""
        return float((self.s_f > gamma).double().mean())

    def count_above(self, beta: float = 0.5) -> int:
        """Equation 8 as it is printed: how many neurons have S_f above beta."""
        return int((self.s_f > beta).sum())

    def concept_coverage(self, beta: float = 0.5) -> float:
        """Figure 7: the share of the vocabulary that gains most by some neuron with S_f above beta."""
        return len(self.concept[self.s_f > beta].unique()) / len(self.vocabulary)

    def summary(self, gamma: float = 0.1, beta: float = 0.5, lost: float = 0.0) -> dict[str, float]:
        """Figures of all neurons together: the layer-level scores, and means of the others.

        ``share_beyond_loss`` is the share of neurons with S_f above ``gamma`` and ``lost``, the part of S_f that comes
        from the loss of the answers, see :func:`uniform_s_f`; ``gamma`` and ``beta`` as for the other methods.
        """
        return {
            "strength": self.strength,
            "neurons": len(self.neurons),
            "share_above_gamma": self.share_above(gamma),
            "share_beyond_loss": self.share_above(gamma + lost),
            "layer_s": self.layer_s,
            "count_above_beta": self.count_above(beta),
            "share_above_beta": self.share_above(beta),
            "concept_coverage": self.concept_coverage(beta),
            "distance": float(self.distance.mean()),
            "total_variation": float(self.total_variation.mean()),
        }

    def frame(self) -> pd.DataFrame:
        """One row per neuron, strongest first."""
        columns = ("s_f", "largest_delta", "total_variation", "distance")
        rows = pd.DataFrame({"neuron": self.neurons.numpy(), **{name: getattr(self, name).numpy() for name in columns}})
        rows.insert(1, "concept", np.array(self.vocabulary, dtype=object)[self.concept.numpy()])
        return rows.sort_values("s_f", ascending=False, kind="stable", ignore_index=True)


def distances_to_mean(texts: Tensor) -> Tensor:
    """Distances of words to the mean word, equations 10 and 11: ``[vocabulary, d] -> [vocabulary]``."""
    return (texts - texts.mean(0)).norm(dim=-1)


def score_neurons(
    neurons: Tensor, strength: float, before: Tensor, after: Tensor, texts: Tensor, vocabulary: tuple[str, ...]
) -> ZeroShotScores:
    """Scores of neurons of which the distributions are known.

    Args:
        neurons: ``[neurons]``.
        strength: Value that their latents were set to.
        before: P, ``[images, vocabulary]``.
        after: P~, ``[neurons, images, vocabulary]``; or ``[neurons, 1, vocabulary]`` if all images have the same.
        texts: Embeddings of the vocabulary, ``[vocabulary, d]``.
        vocabulary: The words.
    """
    mean = after.mean(1)
    delta = mean - before.mean(0)
    # sum_v mean_i (P~ - P)^2, without a tensor [neurons, images, vocabulary] where P~ is the same for all images
    cross = 2 * (mean @ before.mean(0)) if after.shape[1] == 1 else 2 * (after * before).sum(-1).mean(1)
    s_f = after.square().sum(-1).mean(1) - cross + before.square().sum(-1).mean()
    return ZeroShotScores(
        neurons=neurons.cpu(),
        strength=strength,
        s_f=s_f.clamp_min(0).cpu(),
        largest_delta=delta.abs().amax(1).cpu(),
        total_variation=(delta.abs().sum(1) / 2).cpu(),
        concept=delta.argmax(1).cpu(),
        distance=(mean @ distances_to_mean(texts).to(mean.dtype)).cpu(),
        vocabulary=vocabulary,
    )


def joined(parts: list[ZeroShotScores]) -> ZeroShotScores:
    """Scores of several lots of neurons at one strength as one."""
    fields = ("neurons", "s_f", "largest_delta", "total_variation", "concept", "distance")
    tensors = {field: torch.cat([getattr(part, field) for part in parts]) for field in fields}
    return ZeroShotScores(strength=parts[0].strength, vocabulary=parts[0].vocabulary, **tensors)


def summarise(
    sweeps: Mapping[str, Sequence[ZeroShotScores]], gamma: float = 0.1, beta: float = 0.5, lost: float = 0.0
) -> pd.DataFrame:
    """Sweeps of several sets of neurons beside each other: each set's scores at the same strengths, by its name.

    The other arguments are those of :meth:`ZeroShotScores.summary`.

    Returns:
        One row per set and strength: ``neurons_of``, the columns of :meth:`ZeroShotScores.summary`, and for each share
        a ratio: how many times this set's share the first set's share is (NaN or infinite if this is 0).

    Raises:
        ValueError: If there are no scores, or the strengths differ.
    """
    strengths = [[scores.strength for scores in sweep] for sweep in sweeps.values()]
    if not any(strengths) or any(one != strengths[0] for one in strengths):
        raise ValueError(f"sweeps must be of the same strengths to be compared, got {strengths}")
    parts: list[pd.DataFrame] = []
    for name, sweep in sweeps.items():
        part = pd.DataFrame([scores.summary(gamma, beta, lost) for scores in sweep])
        part.insert(0, "neurons_of", name)
        first = parts[0] if parts else part
        for share in [column for column in part if column.startswith("share_")]:
            part[share.replace("share_", "ratio_")] = first[share] / part[share]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def uniform_s_f(before: Tensor) -> float:
    """S_f of a steering that makes all words of P ``[images, vocabulary]`` equally likely.

    That part comes from the loss of the answers alone. A steering to n other words has an S_f of this plus 1/n.
    """
    return Effect(before, torch.full_like(before, 1 / before.shape[1])).s_f
