"""Changes of a residual stream: latents of an SAE are set, added to or scaled, or a direction is added."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from cbsae_hub.models import checks
from cbsae_hub.steering.latents import Latents, SteerableSAE, read_latents, weight_dtype
from cbsae_hub.steering.neurons import AnyPack, Neurons

OPS = ("set", "add", "scale")
UNITS = ("absolute", "p99")
TOKENS = ("all", "cls", "patches", "words")


@dataclass(frozen=True)
class Edit:
    """A change of one latent.

    Args:
        neuron: Its number, or the name of a concept, which :func:`resolve` looks up.
        value: The latent's new value, its summand, or its factor.
        op: "set", "add" or "scale".

    Raises:
        ValueError: If a value is of the wrong type or not finite.
    """

    neuron: int | str
    value: float
    op: str = "set"

    def __post_init__(self) -> None:
        if isinstance(self.neuron, bool) or not isinstance(self.neuron, (Integral, str)):
            raise ValueError(f"neuron must be a number or a name, got {self.neuron!r:.80}")
        object.__setattr__(self, "value", _finite("value", self.value))
        checks.choice("op", self.op, OPS)

    def of(self, latent: Tensor) -> Tensor:
        """The edited latent."""
        if self.op == "set":
            return torch.full_like(latent, self.value)
        return latent + self.value if self.op == "add" else latent * self.value


class Displacement(NamedTuple):
    """The change of one image's activations: ``base + push`` replaces them."""

    base: Tensor
    """``[tokens, d]``: the activations without the change of the edited latents."""
    push: Tensor
    """``[tokens, d]``: the edited latents' contribution."""
    changes: Tensor
    """``[tokens]`` bool: whether the steering asks for a change; strength 0 of a sweep asks for none."""


@dataclass(frozen=True)
class Steering:
    """Changes of latents, and the treatment of the rest of the activations.

    With latents ``z = encode(x)`` and edited latents ``z'``, the activations ``x`` of the chosen tokens become
    ``decode(z')``, plus the SAE's error ``x - decode(z)`` if it is kept. No edits at all is the control
    "reconstruction only".

    Args:
        edits: One edit per neuron.
        isolate: All other latents are zero: "unit vector" steering of CB-SAE and sae-for-vlm (``pre_zero``).
        keep_error: The SAE's reconstruction error is added back, so that strength 0 is the identity.
        tokens: The tokens to steer. Of an image: "all", "cls", "patches", or numbers of patches, counted row by row. Of
            a prompt: "all", also the padding that a Stable Diffusion reads, "words", or numbers of the words' tokens.
        unit: "absolute", or "p99": values of "set" and "add" are multiples of the neuron's 99th percentile of positive
            activations. Values of "scale" are factors in any case.

    Raises:
        ValueError: If a value is not one of those.
    """

    edits: Sequence[Edit]
    isolate: bool = False
    keep_error: bool = False
    tokens: str | Sequence[int] = "all"
    unit: str = "absolute"

    def __post_init__(self) -> None:
        edits = tuple(self.edits) if isinstance(self.edits, Iterable) else None
        if edits is None or not all(isinstance(edit, Edit) for edit in edits):
            raise ValueError(f"edits must be a list of Edit, got {self.edits!r:.80}")
        object.__setattr__(self, "edits", edits)
        object.__setattr__(self, "tokens", _checked_tokens(self.tokens))
        checks.boolean("isolate", self.isolate)
        checks.boolean("keep_error", self.keep_error)
        checks.choice("unit", self.unit, UNITS)

    @property
    def reads_latents(self) -> bool:
        """Whether the outcome depends on the image's latents."""
        return not self.isolate or self.keep_error or any(edit.op != "set" for edit in self.edits)

    def scaled(self, factor: float) -> "Steering":
        """The same steering at a multiple of its strength: every edit's value times ``factor``, whatever its op.

        At 0, "set" and "scale" silence the latent and "add" changes nothing.

        Raises:
            ValueError: If the factor, or a value times the factor, is no finite number.
        """
        factor = _finite("factor", factor)
        return replace(self, edits=[replace(edit, value=factor * edit.value) for edit in self.edits])

    def resolved(self, neurons: Neurons) -> "Steering":
        """The same steering, with neurons by number and absolute values; see :func:`resolve`."""
        edits: dict[int, Edit] = {}
        for edit in self.edits:
            number = neurons.number(edit.neuron)
            if number in edits:
                raise ValueError(f"neuron {number} is edited twice: make one edit of it")
            factor = neurons.p99(number) if self.unit == "p99" and edit.op != "scale" else 1.0
            edits[number] = replace(edit, neuron=number, value=factor * edit.value)
        return replace(self, edits=tuple(edits.values()), unit="absolute")

    def displace(self, x: Tensor, latents: Latents) -> Displacement:
        """The displacement of one image's activations ``x [tokens, d]``; names and units are resolved."""
        neurons = [int(edit.neuron) for edit in self.edits]
        old = latents.columns(neurons)
        new = torch.stack([edit.of(column) for edit, column in zip(self.edits, old.unbind(-1))], -1) if neurons else old
        base, push = latents.decode_edited(neurons, new, self.isolate)
        if self.keep_error and not self.isolate:  # exactly x, without rounding
            return Displacement(x, push, (new != old).any(-1))
        if self.keep_error:
            base = base + (x - latents.reconstruction())
        return Displacement(base, push, torch.ones(len(x), dtype=torch.bool, device=x.device))


@dataclass(frozen=True, eq=False)
class DiffMean:
    """The baseline of sae-for-vlm's table 2: a direction is added, ``x + value * direction / |direction|``.

    Negative values suppress. For comparisons, ``value`` is matched to the displacement of a :class:`Steering`.

    Args:
        direction: ``[d]``, of any length but 0.
        value: Distance by which the activations move.
        tokens: See :class:`Steering`.

    Raises:
        ValueError: If the direction is no vector, zero, or not finite.
    """

    direction: Tensor
    value: float
    tokens: str | Sequence[int] = "all"
    reads_latents = False

    def __post_init__(self) -> None:
        direction = torch.as_tensor(self.direction)
        if direction.ndim != 1 or not direction.isfinite().all() or not direction.any():
            raise ValueError("direction must be a vector [d] of finite numbers that are not all zero")
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "value", _finite("value", self.value))
        object.__setattr__(self, "tokens", _checked_tokens(self.tokens))

    @classmethod
    def fit(
        cls, with_concept: Tensor, without: Tensor, value: float, tokens: str | Sequence[int] = "all"
    ) -> "DiffMean":
        """The direction from the mean of activations ``without`` to that of those ``with_concept``, ``[..., d]``."""
        means = [activations.flatten(0, -2).double().mean(0) for activations in (with_concept, without)]
        return cls((means[0] - means[1]).float(), value, tokens)

    def resolved(self, neurons: Neurons) -> "DiffMean":
        """The same: it edits no neurons."""
        return self

    def displace(self, x: Tensor, latents: Latents) -> Displacement:
        """See :meth:`Steering.displace`."""
        if len(self.direction) != x.shape[-1]:
            raise ValueError(f"the direction has {len(self.direction)} dimensions, the activations {x.shape[-1]}")
        unit = torch.nn.functional.normalize(self.direction.to(x.device, x.dtype), dim=0)
        changes = torch.full((len(x),), self.value != 0, device=x.device)
        return Displacement(x, (self.value * unit).expand_as(x), changes)


@dataclass(frozen=True, eq=False)
class RandomDirection:
    """The control of another steering: the same push, token by token as long, in one random direction.

    Args:
        like: The steering that this controls.
        seed: Seed of the direction.

    Raises:
        ValueError: If there is nothing to control, or the seed is no seed.
    """

    like: Steering | DiffMean
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.like, (Steering, DiffMean)):
            raise ValueError(f"like must be a Steering or DiffMean, got {self.like!r:.80}")
        checks.integer("seed", self.seed, 0, 2**63 - 1)

    @property
    def tokens(self) -> str | Sequence[int]:
        """The tokens of the controlled steering."""
        return self.like.tokens

    @property
    def reads_latents(self) -> bool:
        """Whether the controlled steering reads latents."""
        return self.like.reads_latents

    def resolved(self, neurons: Neurons) -> "RandomDirection":
        """The control of the resolved steering."""
        return replace(self, like=self.like.resolved(neurons))

    def displace(self, x: Tensor, latents: Latents) -> Displacement:
        """See :meth:`Steering.displace`."""
        base, push, changes = self.like.displace(x, latents)
        direction = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(self.seed))
        unit = torch.nn.functional.normalize(direction, dim=0).to(x.device, x.dtype)
        return Displacement(base, push.norm(dim=-1, keepdim=True) * unit, changes)


AnySteering: TypeAlias = Steering | DiffMean | RandomDirection
PerImage: TypeAlias = AnySteering | Sequence[AnySteering | None] | None
"""One for all images, or one per image; None leaves an image alone."""
Kind = TypeVar("Kind", Steering, DiffMean, RandomDirection)


def at_tokens(steering: AnySteering, tokens: Sequence[int]) -> AnySteering:
    """The same steering at other tokens."""
    if isinstance(steering, RandomDirection):
        return replace(steering, like=replace(steering.like, tokens=tokens))
    return replace(steering, tokens=tokens)


def resolve(steering: Kind, sae: SteerableSAE, pack: AnyPack = None) -> Kind:
    """The same steering, with neurons by number and absolute values.

    Args:
        steering: Steering with names or relative values.
        sae: SAE of the neurons.
        pack: A NeuronTable or a Pack of that model; see :class:`cbsae_hub.steering.neurons.Neurons`.

    Raises:
        ValueError: If a neuron does not exist or is edited twice, or a name or percentile is not known.
    """
    return steering.resolved(Neurons(sae, pack))


class Steered(NamedTuple):
    """The result of :func:`steer`: activations ``[images, tokens, d]``, and where changes are asked for, bool."""

    activations: Tensor
    changes: Tensor


def apply(steering: PerImage, v: Tensor, sae: SteerableSAE, pack: AnyPack = None, prefix: int = 1) -> Tensor:
    """Steers activations.

    Args:
        steering: One for all images, or one per image; None leaves an image alone.
        v: ``[images, tokens, d]``, floating point; nothing is changed in place.
        sae: An SAE on the device of ``v``, or a model with the same ``encode`` and ``decode``.
        pack: NeuronTable or Pack with the neurons' names and percentiles, or None.
        prefix: Number of tokens before the patches: 1 for CLIP's CLS.

    Returns:
        ``[images, tokens, d]`` in the dtype of ``v``.

    Raises:
        ValueError: If the number of steerings is not that of the images, a neuron or a token does not exist, a name
            or percentile is not known, or ``v`` does not fit the SAE.
    """
    if v.ndim != 3 or v.shape[-1] != sae.d_in:
        raise ValueError(f"expected activations [images, tokens, {sae.d_in}], got {list(v.shape)}")
    return steer(per_image(steering, len(v), Neurons(sae, pack)), v, sae, prefix).activations


@torch.no_grad()
def steer(steerings: Sequence[AnySteering | None], v: Tensor, sae: SteerableSAE, prefix: int = 1) -> Steered:
    """Steers as :func:`apply` does, with one resolved steering per image; says where a steering asks for a change."""
    return displaced(v, steerings, displacements(steerings, v, sae), prefix)


@torch.no_grad()
def displacements(
    steerings: Sequence[AnySteering | None], v: Tensor, sae: SteerableSAE
) -> Iterator[Displacement | None]:
    """The displacement of each image's activations ``v [images, tokens, d]`` by its resolved steering, one by one."""
    latents = read_latents(sae, v, any(one is not None and one.reads_latents for one in steerings))
    for image, one in enumerate(steerings):
        yield None if one is None else one.displace(v[image].to(weight_dtype(sae)), latents[image])


@torch.no_grad()
def displaced(
    v: Tensor, steerings: Sequence[AnySteering | None], by: Iterable[Displacement | None], prefix: int = 1
) -> Steered:
    """Moves the tokens that each image's steering chooses by that image's displacement."""
    result, changes = v.clone(), torch.zeros(v.shape[:2], dtype=torch.bool, device=v.device)
    for image, (one, displacement) in enumerate(zip(steerings, by, strict=True)):
        if one is None or displacement is None:
            continue
        mask = token_mask(one.tokens, v.shape[1], prefix).to(v.device)
        result[image, mask] = (displacement.base + displacement.push).to(v.dtype)[mask]
        changes[image] = displacement.changes & mask
    return Steered(result, changes)


def per_image(steering: PerImage, count: int, neurons: Neurons, of: str = "image") -> list[AnySteering | None]:
    """One resolved steering per image, or whatever an input is called; see :func:`resolve`.

    Raises:
        ValueError: If there are more or fewer steerings than inputs; or see :func:`resolve`.
    """
    one_for_all = steering is None or isinstance(steering, AnySteering)
    steerings = list(steering) if isinstance(steering, Iterable) else [steering]
    if bad := [one for one in steerings if one is not None and not isinstance(one, AnySteering)]:
        raise ValueError(f"a steering must be a Steering, DiffMean or RandomDirection, got {bad[0]!r:.80}")
    if not one_for_all and len(steerings) != count:
        raise ValueError(f"there are {len(steerings)} steerings for {count} {of}s: give one for all or one per {of}")
    resolved = [None if one is None else one.resolved(neurons) for one in steerings]
    return resolved * count if one_for_all else resolved


def token_mask(tokens: str | Sequence[int], count: int, prefix: int) -> Tensor:
    """Marks the steered ones among ``count`` tokens, ``[count]`` bool.

    Raises:
        ValueError: If there is no CLS token or no such patch.
    """
    mask = torch.zeros(count, dtype=torch.bool)
    if tokens == "all":
        mask[:] = True
    elif tokens == "cls":
        if not prefix:
            raise ValueError("tokens='cls', but this encoder has no CLS token; take 'all' or 'patches'")
        mask[0] = True
    elif tokens == "patches":
        mask[prefix:] = True
    elif tokens == "words":
        raise ValueError("tokens='words' are those of a prompt; an image has 'all', 'cls', 'patches' or numbers")
    else:
        patches = torch.tensor([int(patch) for patch in tokens])
        if patches.max() >= count - prefix:
            raise ValueError(f"there is no patch {patches.max()}: an image has {count - prefix}, counted from 0")
        mask[patches + prefix] = True
    return mask


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r:.80}")
    return float(value)


def _checked_tokens(tokens: str | Sequence[int]) -> str | tuple[int, ...]:
    if isinstance(tokens, str):
        return checks.choice("tokens", tokens, TOKENS)
    if not isinstance(tokens, Iterable):
        names = ", ".join(map(repr, TOKENS))
        raise ValueError(f"tokens must be {names} or numbers of patches in a list, got {tokens!r:.80}")
    patches = tuple(checks.integer("a patch in tokens", patch, 0, 2**31) for patch in tokens)
    if not patches:
        raise ValueError("tokens is empty: name patches, or take 'all', 'cls' or 'patches'")
    return patches
