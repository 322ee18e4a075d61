"""A collection: neurons of one model under a name, each with a note. It is text on the page and in links, or JSON."""

import re
from dataclasses import dataclass
from typing import Any

from cbsae_hub.hub.files import plain
from cbsae_hub.studio.basket import concept_of
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.refusal import Refused

MAX_NAME, MAX_NOTE, MAX_TEXT = 60, 200, 2000  # letters; the text has to fit into an address
_LINE = re.compile(r"#?(\d{1,7})(?:[\s:,;]+(.*))?", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class Collection:
    """Neurons in the order in which they were collected.

    Attributes:
        name: What the visitor calls it; "" for nothing.
        notes: The note on each neuron, "" for none, by the neuron's number.
    """

    name: str
    notes: dict[int, str]

    @property
    def text(self) -> str:
        """A line for each neuron: its number, and after a colon the note; :func:`read_lines` is the way back."""
        return "\n".join(f"{neuron}: {note}" if note else str(neuron) for neuron, note in self.notes.items())


def read_lines(name: Any, text: Any, model: LoadedModel) -> Collection:
    """Returns the collection of a name and of lines such as ``17: fires on wheels``, or raises Refused."""
    notes: dict[int, str] = {}
    for line in filter(None, map(str.strip, str(text or "").split("\n"))):
        match = _LINE.fullmatch(line)
        if match is None:
            raise Refused(f"“{line[:40]}” does not begin with a neuron's number. Write a line such as 17: wheels.")
        _add(notes, int(match[1]), match[2] or "", model)
    return Collection(_title(name), notes)


def as_json(collection: Collection, model: LoadedModel) -> dict[str, Any]:
    """Returns a collection with its model and the neurons' names; :func:`from_json` is the way back."""
    neurons = [
        {"neuron": neuron, "name": concept_of(model, neuron), "score": model.pack.neurons[neuron].score, "note": note}
        for neuron, note in collection.notes.items()
    ]
    about = {"name": collection.name, "model": model.name, "revision": model.sae.revision}
    return plain({**about, "neurons": neurons})


def from_json(content: Any, model: LoadedModel) -> Collection:
    """Returns the collection of a JSON file's content; raises Refused if it is none, or of another model."""
    entries = content.get("neurons") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Refused('This is no collection: it needs "neurons", a list of {"neuron": 17, "note": "..."}.')
    if content.get("model") not in (None, model.name):
        raise Refused(f"This collection is of the model {str(content['model'])[:60]}: choose that one above first.")
    notes: dict[int, str] = {}
    for entry in entries:
        neuron = entry.get("neuron")
        if not isinstance(neuron, int) or isinstance(neuron, bool):
            raise Refused(f"“{str(neuron)[:20]}” is no number of a neuron.")
        _add(notes, neuron, str(entry.get("note") or ""), model)
    collection = Collection(_title(content.get("name")), notes)
    if len(collection.text) > MAX_TEXT:
        raise Refused(f"This collection is longer than the {MAX_TEXT} letters that fit into a link.")
    return collection


def _title(name: Any) -> str:
    return " ".join(str(name or "").split())[:MAX_NAME]


def _add(notes: dict[int, str], neuron: int, note: str, model: LoadedModel) -> None:
    if not 0 <= neuron < len(model.pack.neurons):
        raise Refused(f"There is no neuron {neuron}: this model has {len(model.pack.neurons)}.")
    if neuron in notes:
        raise Refused(f"Neuron {neuron} is in the collection twice.")
    note = " ".join(note.split())
    if len(note) > MAX_NOTE:
        raise Refused(f"The note on neuron {neuron} is longer than {MAX_NOTE} letters.")
    notes[neuron] = note
