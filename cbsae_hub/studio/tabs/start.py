"""The tab "Start": what this is in three lines, and worked examples, whose experiments were run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from markupsafe import Markup

from cbsae_hub.models import CBSAE
from cbsae_hub.neurons.chance import by_chance
from cbsae_hub.neurons.verdicts import STRONG
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit
from cbsae_hub.studio.basket import Basket, range_of
from cbsae_hub.studio.links import Link, setting
from cbsae_hub.studio.server.groups import sides
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import public_id
from cbsae_hub.studio.tabs.tab import Tab
from cbsae_hub.studio.view import html
from cbsae_hub.studio.view.images import WHITE
from cbsae_hub.studio.view.style import script
from cbsae_hub.studio.view.templates import template
from cbsae_hub.words import name_key, words_of

_TEMPLATE = template("start")
LOOKS = 6  # neurons to look at, where no experiment was run


@dataclass(frozen=True)
class Example:
    """A worked example: the texts of its card, and the state of the page that the card's button leads to."""

    title: str
    hypothesis: str
    experiment: str
    expect: str
    link: Link


class StartTab(Tab):
    """Cards that set everything up and open the right tab."""

    def render(self) -> None:
        gr.HTML(_TEMPLATE.introduction())
        self.cards = gr.HTML(cards(self.session.serving.first), elem_id="examples", js_on_load=script("acts"))
        self.outputs, self.parts = [self.cards], {}

    def restore(self, model: LoadedModel, link: Link, new: bool) -> list[Any]:
        """Returns values of :attr:`outputs`: the model's own examples."""
        return [cards(model)]


def examples(model: LoadedModel) -> list[Example]:
    """Returns examples of a model: experiments that were run, and gave what the card says.

    Where none was run, neurons that are worth a look, by the pack alone.
    """
    facts = {kind: model.worked[kind] for kind in _KINDS if kind in model.worked and _can_run(model, kind)}
    cards = [_KINDS[kind](model, record) for kind, record in facts.items()] or _to_look_at(model)
    if "lacking" not in facts and isinstance(model.sae, CBSAE) and (word := _unnamed(model)):
        cards.append(_lacking(model, {"name": word}))
    return cards


def _can_run(model: LoadedModel, kind: str) -> bool:
    """Returns whether the page has the generators that the example was run with: others may answer otherwise."""
    needed = {"look": (), "suppress": (), "draw": ("llava", "unclip")}.get(kind, ("llava",))
    sources = [(name, model.generators.ids[name]) for name in needed]
    return all(source and Path(public_id(source)).name == model.worked.get(name) for name, source in sources)


def _unnamed(model: LoadedModel) -> str | None:
    """Returns a word of the vocabulary that no neuron is called, and that fewest neurons come near."""
    names = {name_key(row.name) for row in model.pack.neurons if row.name}
    lacking = [name for name in model.pack.vocabulary if name_key(name) not in names]
    lacking = [name for name in lacking if model.pack.find(name).verdict != STRONG]
    return min(lacking, key=lambda name: len(model.pack.find(name).matches), default=None)


def _to_look_at(model: LoadedModel) -> list[Example]:
    """Returns neurons to begin with, best first: specific ones, with good names if there are any."""
    frame = model.first_to_show
    good = set(model.telling["neuron"])
    has_name = frame["name"].notna()
    frame = pd.concat([frame[has_name].drop_duplicates("name"), frame[~has_name]])
    return [_look_at(model.pack.neurons[int(neuron)], int(neuron) in good) for neuron in frame["neuron"].head(LOOKS)]


def _look_at(row: Any, sure: bool) -> Example:
    doubt = "chance" if by_chance(row) else "those that an untrained SAE gets"
    title = html.neuron_title(row) if row.name else f"#{row.neuron}"
    return Example(
        f"Look at {row.name} (#{row.neuron})" if sure else f"Look at neuron {row.neuron}",
        f"Neuron {title} stands for “{row.name}”." if sure else f"Neuron {title} stands for one thing.",
        "Open its page. Compare its strongest pictures with those drawn at random from all on which it fires.",
        f"It fires on {row.density:.1%} of the pictures. "
        + (f"Of names by chance, {1 - row.null_percentile:.1%} fit as well as its own." if sure
           else f"Whether these have something in common, nothing here can say: its name is no better than {doubt}."
           if row.name else "It has no name: what they have in common is yours to see."),
        Link(tab="neuron", neuron=row.neuron),
    )  # fmt: skip


def _one(title: str, origin: str, model: LoadedModel, facts: dict[str, Any]) -> Example:
    name = facts["name"]
    return Example(
        title,
        f"The neuron for “{name}”, {origin} is what LLaVA reads “{name}” from.",
        f"Set it to {range_of(model, facts['neuron']).start:g} on a white picture and ask LLaVA for one word.",
        f"LLaVA says {_quoted(facts['said'])}; pushed as far in a random direction, {_quoted(facts['control'])}.",
        _steered(model, "llava", facts["neuron"]),
    )


def _two(model: LoadedModel, facts: dict[str, Any]) -> Example:
    first, second = facts["names"]
    wins, loses = (first, second) if words_of(facts["said"]) == words_of(first) else (second, first)
    return Example(
        "Two at once",
        "Two neurons at the same strength: one of them wins.",
        f"Set {first} and {second} together, then mute the winner.",
        f"One word asked for, LLaVA says “{wins}”; with that neuron muted, “{loses}”.",
        _steered(model, "llava", *facts["neurons"]),
    )


def _mute(model: LoadedModel, facts: dict[str, Any]) -> Example:
    title = html.neuron_title(model.pack.neurons[facts["neuron"]])
    return Example(
        "Readable, but mute",
        f"A neuron that surely stands for {facts['name']} also makes LLaVA say so.",
        f"Set {title} on a white picture.",
        f"It does not: LLaVA says {_quoted(facts['said'])}. Interpretable is not steerable.",
        _steered(model, "llava", facts["neuron"]),
    )


def _draw(model: LoadedModel, facts: dict[str, Any]) -> Example:
    title = html.neuron_title(model.pack.neurons[facts["neuron"]])
    return Example(
        "Let it draw",
        f"What makes LLaVA say “{facts['name']}” makes unCLIP draw it.",
        f"Draw a white picture anew with {title} set, at three strengths.",
        f"In each row, the number of “{facts['name']}” below the drawings grows from left to right; that of the random "
        "control stays below all three.",
        _steered(model, "draw", facts["neuron"]),
    )


def _look(model: LoadedModel, facts: dict[str, Any]) -> Example:
    title = html.neuron_title(model.pack.neurons[facts["neuron"]])
    return Example(
        "Where does it look?",
        f"Neuron {title} fires where {facts['name']} is, not all over the picture.",
        "Open one of its strongest pictures with it chosen, and look at the patches; then click other patches.",
        f"It fires on {facts['patches']} of {facts['of']} patches. At the others, other neurons fire.",
        Link(tab="inspect", inspected_image=facts["picture"], firing_neuron=facts["neuron"]),
    )


def _lacking(model: LoadedModel, facts: dict[str, Any]) -> Example:
    name = facts["name"]
    then = "a neuron of yours, with a verdict of its own."
    if "said" in facts:
        then = (
            "a strong neuron of yours. In the basket, on a white picture, it makes LLaVA say "
            f"{_quoted(facts['said'])}; pushed as far in a random direction, LLaVA says {_quoted(facts['control'])}."
        )
    return Example(
        "A concept that it lacks",
        f"No neuron of this model surely stands for “{name}”.",
        "Look it up. Then open Your concepts, type it, and train a neuron for it, which takes half a minute.",
        f"First nothing strong; then {then}",
        Link(tab="find", query=name),
    )


def _suppress(model: LoadedModel, facts: dict[str, Any]) -> Example:
    lacking, attribute = sides(facts)
    before, after, *random = facts["right"]
    verdict = "that helps" if after > before else "that is not what misleads it" if after == before else "that hurts"
    control = f", and {random[0]} without as many others" if random else ""
    name = facts["class"]
    return Example(
        f"The {name} without {attribute}",
        f"CLIP takes a {name} for something else where there is no {attribute}: it looks at what is there instead.",
        f"Switch off the neurons that fire more on pictures with {lacking} than on those with {attribute}.",
        f"Of {facts['pictures']} pictures of the group “{name}, {lacking}”, CLIP is right about {before} as it is, "
        f"{after} without the {facts['off']} neurons{control}: {verdict}.",
        Link(tab="suppress", without=True),
    )


_KINDS: dict[str, Callable[[LoadedModel, dict[str, Any]], Example]] = {
    "word": partial(_one, "One neuron, one word", "which is in the SAE, found without any label,"),
    "concept": partial(_one, "A concept that the SAE lacked", "which was trained into the bottleneck,"),
    "two": _two, "mute": _mute, "draw": _draw, "look": _look, "lacking": _lacking, "suppress": _suppress,
}  # fmt: skip


def _steered(model: LoadedModel, tab: str, *neurons: int) -> Link:
    basket = Basket(tuple(Edit(neuron, range_of(model, neuron).start) for neuron in neurons))
    return Link(tab=tab, basket=basket, image=WHITE, question=ONE_WORD, neuron=neurons[0])


def _quoted(answer: str) -> str:
    return f"“{answer}”" if answer else "nothing"


def cards(model: LoadedModel) -> Markup:
    """Returns all examples as HTML, and says if the names are worth nothing."""
    worthless = model.nonsense is not None and model.telling.empty
    return _TEMPLATE.cards([(example, json.dumps(setting(example.link))) for example in examples(model)], worthless)
