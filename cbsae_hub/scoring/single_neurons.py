"""Activations of one picture with one neuron set at a time, from which all neurons are scored."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cbsae_hub.steering.latents import SteerableSAE, read_latents


class SingleNeurons:
    """A picture's activations with one neuron at a time set, for many neurons without a pass of the SAE for each.

    Isolated, the picture does not matter: ``b_dec + value * d_j`` at every token (unit vector). In context the SAE's
    reconstruction of the picture is changed by ``(value - z_j) d_j``. Both equal a :class:`Steering` of one
    :class:`Edit` without the SAE's error. ``v`` are the picture's activations at the SAE's block, ``[tokens, d]``.
    """

    def __init__(self, sae: SteerableSAE, v: Tensor, isolate: bool):
        self.sae, self.isolate, self._tokens = sae, isolate, len(v)
        # Isolated, all tokens are one vector, which is kept once and expanded, unless each has a scale of its own.
        self._once = isolate and getattr(sae, "input_norm", None) is None
        with torch.no_grad():
            self._latents = read_latents(sae, v[:1] if self._once else v, needed=not isolate)
            self.plain = self._latents.reconstruction()[None].expand(1, len(v), -1)

    @torch.no_grad()
    def set(self, neurons: Sequence[int], values: Sequence[float]) -> Tensor:
        """Activations with each neuron set to its value, ``[neurons, tokens, d]``; isolated, tokens are expanded."""
        return (self._base() + self._pushes(neurons, values)).expand(-1, self._tokens, -1)

    @torch.no_grad()
    def pushed_randomly(self, neurons: Sequence[int], values: Sequence[float], seed: int) -> Tensor:
        """The control of :meth:`set`: every token is moved as far, in a random direction of each neuron's own.

        The seed, added to a neuron's number, is that of its direction.
        """
        pushes, width = self._pushes(neurons, values), self.plain.shape[-1]
        directions = [torch.randn(width, generator=torch.Generator().manual_seed(seed + int(n))) for n in neurons]
        units = F.normalize(torch.stack(directions), dim=-1).to(pushes)
        return (self._base() + pushes.norm(dim=-1, keepdim=True) * units[:, None]).expand(-1, self._tokens, -1)

    @torch.no_grad()
    def displacement(self, neurons: Sequence[int], values: Sequence[float]) -> Tensor:
        """Length of the activations' displacement, mean over tokens, ``[neurons]``."""
        return self._pushes(neurons, values).norm(dim=-1).mean(1)

    def _base(self) -> Tensor:
        return self.plain[:, :1] if self._once else self.plain

    def _pushes(self, neurons: Sequence[int], values: Sequence[float]) -> Tensor:
        """Displacements by setting, ``[neurons, tokens, d]``, or ``[neurons, 1, d]`` if all tokens have the same."""
        strengths = torch.as_tensor(values, dtype=self.plain.dtype, device=self.plain.device).expand(len(neurons))
        return self._latents.pushes([int(neuron) for neuron in neurons], strengths, self.isolate)
