"""The record of a model's origin: the activations that it explains, and how it was made."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from cbsae_hub.models import checks

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "encoder_id": checks.text,
    "encoder_revision": checks.text,
    "layer": lambda name, value: None if value is None else checks.integer(name, value, -1000, 1000),
    "tokens": checks.text,
    "tower": checks.tower,
    "norm_factor": lambda name, value: None if value is None else checks.positive(name, value),
}
"""Checks of the entries that are no description, which is a text or a JSON object."""


@dataclass(frozen=True)
class Provenance:
    """Record of the activations that a model explains. An entry is None where it is not known.

    A model holds one as ``provenance``, its config.json holds the entries one by one. To change some:
    ``model.provenance = dataclasses.replace(model.provenance, layer=3)``.

    Attributes:
        encoder_id: The encoder whose activations are explained, as ``VisionEncoder.provenance()`` gives it.
        encoder_revision: Its revision.
        layer: The block whose output is read, 0-based.
        tokens: Tokens that are read: "cls", "patches", "all", "mean" or "random:n"; of towers that read texts, see
            :class:`cbsae_hub.encoders.TextEncoder` and :class:`cbsae_hub.encoders.LanguageEncoder`.
        preprocessing: Preprocessing of the images or texts.
        training_data: The data set, split and amount that the SAE was trained on.
        tower: Kind of tower that the layer is of: "text", "language" or "projector"; None is a vision tower.

    Raises:
        ValueError: If an entry is of the wrong type, out of range, or unreasonably large.
    """

    encoder_id: str | None = None
    encoder_revision: str | None = None
    layer: int | None = None
    tokens: str | None = None
    preprocessing: str | dict | None = None
    training_data: str | dict | None = None
    tower: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            object.__setattr__(self, name, CHECKS.get(name, checks.description)(name, value))

    def of_activations(self) -> dict[str, Any]:
        """The entries that an SAE shares with a concept bottleneck SAE that is made of it."""
        return {name: getattr(self, name) for name in SHARED}


SHARED = tuple(field.name for field in fields(Provenance))


@dataclass(frozen=True)
class SAEProvenance(Provenance):
    """Provenance of an SAE.

    Attributes:
        norm_factor: The input scale that was folded in by :meth:`cbsae_hub.models.sae.SAE.fold_input_scale`.
        imported_from: Origin of somebody else's SAE: format, source, file, changes (``notes``) and entries of its
            config; written by :func:`cbsae_hub.formats.convert.import_sae`.
    """

    norm_factor: float | None = None
    imported_from: dict | None = None


@dataclass(frozen=True)
class BottleneckProvenance(Provenance):
    """Provenance of a concept bottleneck SAE: :class:`cbsae_hub.models.CBSAE` describes its own entries."""

    parent: str | dict | None = None
    teacher: str | dict | None = None
    pruning: str | dict | None = None
    trained_on: str | dict | None = None
