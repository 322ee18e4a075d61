"""The tab "Start": what this is in three lines, and worked examples, chosen by what was measured of the model."""

import json
import math
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd

from cbsae_hub.models import CBSAE
from cbsae_hub.steering.first_words import ONE_WORD
from cbsae_hub.studio import html
from cbsae_hub.studio.basket import Basket, Item, concept_of
from cbsae_hub.studio.html import attribute, escape
from cbsae_hub.studio.links import Link, setting
from cbsae_hub.studio.loaded import Loaded
from cbsae_hub.studio.pictures import WHITE
from cbsae_hub.studio.style import script
from cbsae_hub.studio.visit import Visit
from cbsae_hub.words import name_key

LOW, HIGH = 0.2, 0.6  # steerability and interpretability that an example calls low and high


@dataclass(frozen=True)
class Example:
    """A worked example: what one may think, what to do, and what one should see, and where it leads."""

    title: str
    hypothesis: str
    experiment: str
    expect: str
    link: Link


class StartTab:
    """Cards that set everything up and open the right tab.

    Args:
        visit: What the tabs share.
    """

    def __init__(self, visit: Visit):
        self.visit = visit

    def render(self) -> None:
        """Adds the tab's components to the page that is being built; the buttons say where they lead."""
        gr.HTML(_WHAT)
        self.cards = gr.HTML(cards(self.visit.serving.first), elem_id="examples", js_on_load=script("acts"))

    def restore(self, loaded: Loaded, link: Link, new: bool) -> list[Any]:
        """The model's own examples."""
        return [cards(loaded)]

    @property
    def parts(self) -> dict[str, Any]:
        """What the address says of the tab: nothing."""
        return {}

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`restore` sets."""
        return [self.cards]


def examples(loaded: Loaded) -> list[Example]:
    """Examples for a model: what its scores say is worth seeing, successes and failures."""
    frame = loaded.pack.neurons.frame
    found = [] if loaded.alpha is None or "said_white" not in frame else _steered(loaded, frame)
    best = loaded.pack.neurons[int(frame.loc[frame["score"].idxmax(), "neuron"])]
    if shown := loaded.pack.examples(best.neuron, "top", 1):
        found.append(
            Example(
                "Where does it look?",
                f"Neuron {html.neuron_title(best)} fires where {best.name} is, not all over the picture.",
                "Open one of its strongest pictures, and look at the patches; then click other patches.",
                "The patches on it light up. Somewhere else, other neurons fire.",
                Link(tab="inspect", picture=f"s{shown[0].image_id}"),
            )
        )
    if not isinstance(loaded.sae, CBSAE):  # without a bottleneck, nothing can be added
        return found
    known = {name_key(row.name) for row in loaded.pack.neurons if row.name}
    lacking = [name for name in loaded.pack.vocabulary if name_key(name) not in known]
    word = min(lacking, key=lambda name: len(loaded.pack.find(name).matches), default=None)
    if word is None:
        return found
    found.append(
        Example(
            "A concept that it lacks",
            f"No neuron of this model stands for “{word}”.",
            "Look it up. Then open Your concepts, type it, and train a neuron for it, which takes half a minute.",
            "First nothing, or little that fits; then a neuron of yours, which works in all tabs at once.",
            Link(tab="find", query=word),
        )
    )
    return found


def _steered(loaded: Loaded, frame: pd.DataFrame) -> list[Example]:
    """Examples of steering, with what LLaVA said when the scores were measured."""
    names = frame["designated"].where(frame["kind"] == "cb", frame["name"]) if "designated" in frame else frame["name"]
    works = frame[(frame["said_white"] == names) & (frame["said_white_random"] != names)]
    found = []
    in_sae = _best(works[works["kind"] == "sae"], "interpretability")
    if in_sae is not None:
        found.append(_one(loaded, in_sae, "One neuron, one word", "is in the SAE, found without any label"))
    concept = _best(works[works["kind"] == "cb"], "score")
    if concept is not None:
        found.append(_one(loaded, concept, "A concept that the SAE lacked", "was trained into the bottleneck"))
    if in_sae is not None and concept is not None:
        both = tuple(Item(int(row.neuron), float(loaded.alpha)) for row in (in_sae, concept))
        found.append(
            Example(
                "Two at once",
                "Two neurons at the same strength share the answer, or one of them wins.",
                f"Set {concept_of(loaded, both[0].neuron)} and {concept_of(loaded, both[1].neuron)} together, then "
                "mute one, or move a slider.",
                "One word asked for, one wins; muting it brings the other.",
                Link(tab="llava", basket=Basket(both), picture=WHITE, question=ONE_WORD),
            )
        )
    mute = _best(
        frame[(frame["steerability"] < LOW) & (frame["interpretability"] > HIGH) & (frame["kind"] == "sae")],
        "interpretability",
    )
    if mute is not None:
        found.append(
            Example(
                "Readable, but mute",
                f"A neuron that fires on {mute.name} also makes LLaVA say so.",
                f"Set {html.neuron_title(mute)}, of the best-named neurons, on a white picture.",
                f"It does not: when it was measured, LLaVA said “{mute.said_white}”. Interpretable is not steerable.",
                _link(loaded, mute, "llava"),
            )
        )
    if "steer_image_white" in frame:
        gain = frame["steer_image_white"] - frame["steer_image_white_random"]
        drawn = _best(works.assign(gain=gain), "gain")
        if drawn is not None:
            found.append(
                Example(
                    "Let it draw",
                    f"Whoever makes LLaVA say “{drawn.name}” makes unCLIP draw it.",
                    f"Draw a white picture anew with {html.neuron_title(drawn)} set, at three strengths.",
                    "From left to right the drawings get nearer to it; the random control does not.",
                    _link(loaded, drawn, "draw"),
                )
            )
    return found


def _one(loaded: Loaded, row: Any, title: str, origin: str) -> Example:
    name = concept_of(loaded, int(row.neuron))
    control = f"“{row.said_white_random}”" if row.said_white_random else "nothing"
    return Example(
        title,
        f"The neuron for “{name}”, which {origin}, is what LLaVA reads “{name}” from.",
        f"Set it to {loaded.alpha:g} on a white picture and ask LLaVA for one word.",
        f"LLaVA says “{row.said_white}”; pushed as far in a random direction, {control}.",
        _link(loaded, row, "llava"),
    )


def _link(loaded: Loaded, row: Any, tab: str) -> Link:
    basket = Basket((Item(int(row.neuron), float(loaded.alpha)),))
    return Link(tab=tab, basket=basket, picture=WHITE, question=ONE_WORD, neuron=int(row.neuron))


def _best(frame: pd.DataFrame, column: str) -> Any:
    """The row with the largest value, or None."""
    known = frame[frame[column].notna()]
    if known.empty or math.isnan(known[column].max()):
        return None
    return next(known.loc[[known[column].idxmax()]].itertuples())


def cards(loaded: Loaded) -> str:
    """All examples as HTML."""
    parts = "".join(
        f'<li class="cb-example"><h3>{escape(example.title)}</h3><dl>'
        f"<dt>Hypothesis</dt><dd>{escape(example.hypothesis)}</dd><dt>Experiment</dt><dd>{escape(example.experiment)}"
        f"</dd><dt>What you should see</dt><dd>{escape(example.expect)}</dd></dl>"
        f'<button type="button" class="cb-do cb-primary" data-act="example" '
        f'data-says="{attribute(json.dumps(setting(example.link)))}">Try it</button></li>'
        for example in examples(loaded)
    )
    return f'<ol class="cb-examples">{parts}</ol>'


_WHAT = """<section class="cb-what">
<p><strong>A vision model turns a picture into long lists of numbers.</strong> A sparse autoencoder (SAE) takes such a
list apart into neurons, most of which stand for one thing: a pizza, grass, a sketch.</p>
<p>Here you can look neurons up, see where they fire, and <strong>set</strong> them: then LLaVA tells, and unCLIP draws,
what the model sees now. Every experiment comes with its controls.</p>
<p>Begin with one of these. Each sets everything up and runs.</p></section>"""
