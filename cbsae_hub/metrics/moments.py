"""Sums over images of powers of activations times powers of similarities, from which CLIP-Dissect's cosines follow."""

from collections.abc import Iterable, Iterator, Sequence
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from cbsae_hub.metrics.latents import transposed_product

MIN_NORM = 1e-3  # of the published code's cosine of cubes


class MomentSums(NamedTuple):
    """``sum z^i s^j`` over a stream of images, ``z`` and ``s`` less a fixed shift each.

    The cosine of cubes needs moments about the mean, which is known at the end only. Powers of what lies far from zero
    drown them in rounding: at a mean of 30 deviations nothing is left of the sixth power. So the first batch's mean is
    subtracted before the powers are taken, and the small rest afterwards.

    Attributes:
        z_shift: ``[neurons]``, subtracted from activations; 0 for neurons that are not active on every image.
        s_shift: ``[concepts]``, subtracted from similarities.
        z_sums: ``[powers, neurons]``, sums of ``z^i``; the first row is the number of images.
        s_sums: ``[powers, concepts]``, sums of ``s^j``.
        products: ``[powers, powers, neurons, concepts]``, sums of ``z^i s^j`` from power 1 on.
    """

    z_shift: Tensor
    s_shift: Tensor
    z_sums: Tensor
    s_sums: Tensor
    products: Tensor

    @classmethod
    def about_first_batch(
        cls, latents: Tensor, similarities: Tensor, powers: tuple[int, int], centred: bool
    ) -> "MomentSums":
        """Empty sums, shifted by the means of a batch's latents ``[images, neurons]`` and similarities, if ``centred``.

        ``powers`` are the highest power of activations alone, and that of either factor of a product.
        """
        neurons, concepts = latents.shape[1], similarities.shape[1]
        highest, of_product = powers
        z_shift, s_shift = similarities.new_zeros(neurons), similarities.new_zeros(concepts)
        if centred and len(latents):
            stored = latents.coalesce().indices()[1].bincount(minlength=neurons) if latents.is_sparse else len(latents)
            mean = torch.sparse.sum(latents.double(), 0).to_dense() if latents.is_sparse else latents.double().sum(0)
            z_shift = torch.where(torch.as_tensor(stored == len(latents)), mean / len(latents), z_shift)
            s_shift = similarities.mean(0)
        return cls(
            z_shift,
            s_shift,
            similarities.new_zeros(highest + 1, neurons),
            similarities.new_zeros(of_product + 1, concepts),
            similarities.new_zeros(of_product, of_product, neurons, concepts),
        )

    def add(self, latents: Tensor, similarities: Tensor) -> None:
        """Adds a batch in place: activations ``[images, neurons]`` and similarities ``[images, concepts]`` float64."""
        s = similarities - self.s_shift
        self.s_sums.add_(torch.stack([s.pow(j).sum(0) for j in range(len(self.s_sums))]))
        self.z_sums[0] += len(s)
        ones = s.new_ones(len(s), 1)
        for neurons, z in self._shifted(latents):
            for i in range(1, len(self.z_sums)):
                power = z**i
                touched, moment = transposed_product(power, ones)
                self.z_sums[i, neurons[touched]] += moment[:, 0]
                for j in range(1, len(self.products) + 1) if i <= len(self.products) else ():
                    touched, moment = transposed_product(power, s**j)
                    self.products[i - 1, j - 1, neurons[touched]] += moment

    def _shifted(self, latents: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Neurons and their shifted activations in float64: sparse for those that are not shifted."""
        everything = torch.arange(latents.shape[1], device=latents.device)
        moved = self.z_shift != 0
        if not latents.is_sparse:
            yield everything, latents.double() - self.z_shift
        elif not moved.any():
            yield everything, latents.double()
        else:
            dense = latents.index_select(1, everything[moved]).to_dense().double()
            yield everything[moved], dense - self.z_shift[moved]
            yield everything[~moved], latents.index_select(1, everything[~moved]).coalesce().double()

    def of_concepts(self, columns: slice) -> "MomentSums":
        """The sums of some concepts."""
        return MomentSums(
            self.z_shift, self.s_shift[columns], self.z_sums, self.s_sums[:, columns], self.products[..., columns]
        )

    def central(self, i: int, j: int, z_mean: Tensor, s_mean: Tensor) -> Tensor:
        """``sum (z - z_mean)^i (s - s_mean)^j`` of the unshifted values, ``[neurons, concepts]``."""
        z_rest, s_rest = (self.z_shift - z_mean)[:, None], self.s_shift - s_mean
        total = torch.zeros_like(self.products[0, 0])
        for a in range(i + 1):
            for b in range(j + 1):
                factor = comb(i, a) * z_rest ** (i - a) * (comb(j, b) * s_rest ** (j - b))
                total += factor * self._sum_of(a, b)
        return total

    def central_power(self, i: int, z_mean: Tensor) -> Tensor:
        """``sum (z - z_mean)^i`` of the unshifted activations, ``[neurons]``."""
        rest = self.z_shift - z_mean
        return torch.stack([comb(i, a) * rest ** (i - a) * self.z_sums[a] for a in range(i + 1)]).sum(0)

    def _sum_of(self, a: int, b: int) -> Tensor:
        if a and b:
            return self.products[a - 1, b - 1]
        return self.z_sums[a][:, None] if a else self.s_sums[b]


def cosine_of_moments(parts: Sequence[MomentSums], similarities: Tensor) -> Tensor:
    """The cosine of activations and similarities from sums that are not shifted, ``[neurons, concepts]``."""
    dot = _total(part.products[0, 0] for part in parts)
    norm = _total(part.z_sums[2] for part in parts).sqrt()[:, None]
    return safe_divide(dot, norm * similarities.norm(dim=0))


def cosine_cubed_of_moments(parts: Sequence[MomentSums], similarities: Tensor) -> Tensor:
    """The cosine of centred and cubed activations and similarities, ``[neurons, concepts]``."""
    z_mean = _total(part.z_sums[1] + part.z_sums[0] * part.z_shift for part in parts) / len(similarities)
    s_mean = similarities.mean(0)
    dot = _total(part.central(3, 3, z_mean, s_mean) for part in parts)
    z_norm = _total(part.central_power(6, z_mean) for part in parts).clamp_min(0).sqrt()
    s_norm = (similarities - s_mean).pow(6).sum(0).sqrt()
    return dot / (z_norm.clamp_min(MIN_NORM)[:, None] * s_norm.clamp_min(MIN_NORM))


def _total(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)
