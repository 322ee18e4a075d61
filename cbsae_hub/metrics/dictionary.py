"""Figures of a dictionary that need nothing but its directions: redundancy, and stability over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ROWS_AT_ONCE = 2048
SAME = 0.7
"""Cosine from which a neuron of another seed counts as the same one."""
ALIKE = 5
"""Neurons of another seed whose span a neuron is compared with."""


class Stability(NamedTuple):
    """Stability of each neuron over other seeds, ``[neurons]`` float64 each."""

    cosine: Tensor
    """Mean cosine to the neurons that it is matched with."""
    share: Tensor
    """Share of the seeds that have it."""
    subspace: Tensor
    """Mean length of its direction's part in the span of the most alike neurons of a seed."""


def redundancy(rows: Tensor) -> Tensor:
    """Largest cosine of each neuron's direction with another one's, ``[neurons]``; the mean is the redundancy.

    SemanticLens (Dreyer et al., 2025) has the same of neurons' embeddings.

    Args:
        rows: ``[neurons, d]``, of any length but 0; a single one has NaN.
    """
    units = F.normalize(rows.detach().float(), dim=1)
    nearest = []
    for start in range(0, len(units), ROWS_AT_ONCE):
        cosines = units[start : start + ROWS_AT_ONCE] @ units.T
        cosines.diagonal(start).fill_(-torch.inf)
        nearest.append(cosines.amax(1))
    return torch.cat(nearest) if len(units) > 1 else units.new_full((len(units),), torch.nan)


def seed_stability(rows: Tensor, others: Sequence[Tensor], threshold: float = SAME, alike: int = ALIKE) -> Stability:
    """Does training find a neuron again, from other seeds?

    - ``cosine``: neurons are matched one to one, so that the sum of their cosines is largest (Hungarian method); the
      mean over all of them is PW-MCC (Song et al., arXiv 2505.20254), but signed: a latent is positive.
    - ``share``: seeds in which any neuron has a cosine of ``threshold`` or more (after arXiv 2606.12138).
    - ``subspace``: seeds may share a subspace and split it otherwise. This is the length of a unit direction's
      projection on the span of the ``alike`` neurons with the largest absolute cosine.

    All have a chance level that is far from 0 and depends on numbers and width: compare with untrained SAEs.

    Args:
        rows: Directions ``[neurons, d]`` of the dictionary that is judged, of any length but 0.
        others: Those of other seeds, ``[any number, d]`` each. A neuron that is left over has cosine 0 there.
        threshold: See ``share``.
        alike: See ``subspace``.

    Raises:
        ValueError: If there is no other seed, or widths differ.
    """
    if not others or any(other.shape[1:] != rows.shape[1:] for other in others):
        raise ValueError("stability compares dictionaries of one width: give those of other seeds")
    units = F.normalize(rows.detach().double(), dim=1)
    cosine, share, subspace = (units.new_zeros(len(units)) for _ in range(3))
    for other in others:
        theirs = F.normalize(other.detach().double(), dim=1)
        cosines = units @ theirs.T
        mine, matched = (torch.from_numpy(side) for side in linear_sum_assignment(cosines.cpu().numpy(), maximize=True))
        cosine[mine] += cosines[mine, matched]
        share += cosines.amax(1) >= threshold
        subspace += _inside(units, theirs, cosines.abs().topk(min(alike, len(theirs))).indices)
    return Stability(cosine / len(others), share / len(others), subspace / len(others))


def _inside(units: Tensor, theirs: Tensor, indices: Tensor) -> Tensor:
    """Length of the part of each unit row in the span of the rows that its ``indices [neurons, alike]`` name."""
    lengths = []
    for row, chosen in zip(units.split(ROWS_AT_ONCE), indices.split(ROWS_AT_ONCE)):
        basis, sizes, _ = torch.linalg.svd(theirs[chosen].mT, full_matrices=False)  # [rows, d, alike]
        spans = sizes > 1e-9 * sizes[:, :1]
        lengths.append(((row[:, None] @ basis)[:, 0] * spans).norm(dim=1))
    return torch.cat(lengths)


def moved(rows: Tensor, start: Tensor) -> Tensor:
    """One less the cosine of each direction and the one that it was at the start, ``[neurons]``: 0 is not moved.

    Dictionaries that start alike look stable without having learnt anything: look at both.
    """
    return 1 - F.cosine_similarity(rows.detach().double(), start.detach().double(), dim=1)
