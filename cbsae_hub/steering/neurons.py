"""Neurons by name, and their percentiles."""

import math
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, cast

from cbsae_hub.models import checks
from cbsae_hub.neurons.pack import Pack
from cbsae_hub.neurons.search import SAME_WORDS, Match
from cbsae_hub.neurons.table import NeuronTable
from cbsae_hub.steering.latents import SteerableSAE
from cbsae_hub.words import closest_names, name_key

AnyPack: TypeAlias = NeuronTable | Pack | None
"""Where names and percentiles of neurons are looked up."""


class Neurons:
    """The neurons of a model by number, by name and with their percentiles.

    Args:
        sae: The model; a concept bottleneck SAE knows its neurons' names.
        pack: A NeuronTable or a Pack of it, or None.

    Raises:
        ValueError: If the pack is of another model, or the id of one.
    """

    def __init__(self, sae: SteerableSAE, pack: AnyPack = None):
        self._count = sae.d_latent
        self._names: list[str | None] = list(getattr(sae, "neuron_names", None) or [])
        self._concepts_from = len(getattr(sae, "sae_neuron_ids", self._names))
        if isinstance(pack, (str, Path)):
            raise ValueError(f"the pack has to be read first: pack=Pack.from_pretrained({str(pack)!r:.200})")
        self._table = cast(NeuronTable | None, getattr(pack, "neurons", pack))
        if self._table is not None and len(self._table) != self._count:
            raise ValueError(
                f"the pack is of another model: it has {len(self._table)} neurons, the SAE {self._count}; "
                "give its own pack, or build it again"
            )

    def number(self, neuron: int | str) -> int:
        """The number of a neuron.

        A name is first looked up among the concept neurons of a concept bottleneck SAE; then in the neuron table: the
        neuron whose first name has the same words: of several a strong one (:mod:`cbsae_hub.neurons.verdicts`), and
        of those the one with the best score; then among all names that the model itself gives its neurons.

        Raises:
            ValueError: If there is no such neuron (near names are suggested), or a name has several owners that
                cannot be ranked.
        """
        if not isinstance(neuron, str):
            return checks.integer("neuron", neuron, 0, self._count - 1)
        owners = self._owners.get(name_key(neuron), [])
        if owners and owners[-1] >= self._concepts_from:
            return owners[-1]
        matches = [] if self._table is None else self._table.index.find(neuron)
        best = next((match for match in matches if match.match >= SAME_WORDS and match.rank == 0), None)
        if best is not None:
            return best.neuron
        if len(owners) == 1:
            return owners[0]
        if owners:
            raise ValueError(f"the neurons {str(owners[:10])[1:-1]} are all called {neuron!r}: give a number")
        raise ValueError(self._unknown(neuron, matches))

    def p99(self, neuron: int) -> float:
        """99th percentile of a neuron's positive activations.

        Raises:
            ValueError: If it is not known.
        """
        if self._table is None:
            raise ValueError("unit='p99' needs the neuron table: give pack=Pack.from_pretrained(...)")
        p99 = float(self._table[neuron].p99)
        if not (p99 > 0 and math.isfinite(p99)):
            raise ValueError(f"neuron {neuron} never fires and has no 99th percentile: give an absolute value")
        return p99

    @cached_property
    def _owners(self) -> dict[str, list[int]]:
        """Numbers of the neurons that the model itself calls by a name, by its key."""
        owners = defaultdict(list)
        for number, name in enumerate(self._names):
            if name:
                owners[name_key(name)].append(number)
        return owners

    def _unknown(self, name: str, matches: list[Match]) -> str:
        if not self._names and self._table is None:
            return f"to find neurons by name ({name!r:.80}) give pack=Pack.from_pretrained(...); or give their numbers"
        near = [f"{match.concept} (neuron {match.neuron})" for match in matches[:5]]
        near = near or ([] if self._table is None else self._table.index.spelled_like(name, 5))
        near = near or closest_names(name, filter(None, self._names), 5)
        return f"no neuron is called {name!r:.80}" + (f"; near are: {', '.join(near)}" if near else "")
