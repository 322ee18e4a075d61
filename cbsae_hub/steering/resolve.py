"""From names of concepts to numbers of neurons, and from percentiles to absolute values."""

import difflib
import math
from dataclasses import replace
from typing import Any

from cbsae_hub.models import checks
from cbsae_hub.search import SAME_WORDS
from cbsae_hub.steering.edits import AnySteering, Edit, RandomDirection, Steering
from cbsae_hub.steering.latents import neuron_count


def resolve(steering: AnySteering | None, sae: Any, pack: Any = None) -> AnySteering | None:
    """The same steering, with neurons by number and absolute values.

    A name is first looked up among the concept neurons of a concept bottleneck SAE, then in the neuron table: the
    neuron whose first name has the same words, and of several the one with the best score; then among all names that
    the model itself gives its neurons.

    Args:
        steering: What is resolved.
        sae: Whose neurons are meant.
        pack: A NeuronTable or a Pack of that model.

    Raises:
        ValueError: If a neuron does not exist or is edited twice, a name matches none (near ones are named) or several,
            or a percentile is not known.
    """
    if isinstance(steering, RandomDirection):
        return replace(steering, like=resolve(steering.like, sae, pack))
    if not isinstance(steering, Steering):
        return steering
    table = _table_of(sae, pack)
    edits = [_resolved(edit, steering.unit, sae, table) for edit in steering.edits]
    neurons = [edit.neuron for edit in edits]
    if twice := [neuron for neuron in neurons if neurons.count(neuron) > 1]:
        raise ValueError(f"neuron {twice[0]} is edited twice: make one edit of it")
    return replace(steering, edits=edits, unit="absolute")


def _table_of(sae: Any, pack: Any) -> Any:
    table = getattr(pack, "neurons", pack)
    if table is not None and len(table) != neuron_count(sae):
        raise ValueError(
            f"the pack is of another model: it has {len(table)} neurons, the SAE {neuron_count(sae)}; build it again"
        )
    return table


def _resolved(edit: Edit, unit: str, sae: Any, table: Any) -> Edit:
    neuron = edit.neuron
    if isinstance(neuron, str):
        neuron = _by_name(neuron, sae, table)
    neuron = checks.integer("neuron", neuron, 0, neuron_count(sae) - 1)
    if unit == "absolute" or edit.op == "scale":
        return replace(edit, neuron=neuron)
    if table is None:
        raise ValueError("unit='p99' needs the neuron table: give pack=Pack.from_pretrained(...), or absolute values")
    p99 = table[neuron].p99
    if not (p99 > 0 and math.isfinite(p99)):
        raise ValueError(f"neuron {neuron} has no 99th percentile, it never fires: give an absolute value")
    return replace(edit, neuron=neuron, value=edit.value * float(p99))


def _by_name(name: str, sae: Any, table: Any) -> int:
    wanted = name.strip().lower()
    names = getattr(sae, "neuron_names", None) or []
    owners = [neuron for neuron, other in enumerate(names) if other and other.lower() == wanted]
    concept_neurons = [neuron for neuron in owners if neuron >= len(getattr(sae, "sae_neuron_ids", names))]
    if concept_neurons:
        return concept_neurons[0]
    found = [] if table is None else table.find(name)
    first_names = [match for match in found if match.match >= SAME_WORDS and match.rank == 0]
    if first_names:
        return first_names[0].neuron
    if len(owners) == 1:
        return owners[0]
    if owners:
        raise ValueError(f"the neurons {', '.join(map(str, owners[:10]))} are all called {name!r}: give a number")
    raise ValueError(_unknown(name, wanted, names, table, found))


def _unknown(name: str, wanted: str, names: list[str], table: Any, found: list[Any]) -> str:
    if not names and table is None:
        return (
            f"no neuron can be found by the name {name!r}, as the names are not known: give the neuron's number, or "
            "pack=Pack.from_pretrained(...)"
        )
    near = [f"{match.concept} (neuron {match.neuron})" for match in found[:5]]
    if table is not None and not near:
        near = table.index.spelled_like(wanted, 5)
    near = near or difflib.get_close_matches(wanted, [other for other in names if other], 5, cutoff=0.4)
    return f"no neuron is called {name!r}" + (f"; near are {', '.join(near)}" if near else "")
