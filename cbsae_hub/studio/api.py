"""The public endpoints, for gradio_client, curl and assistants (MCP): typed, documented, and checked like the page."""

import inspect
from functools import wraps
from typing import Any

import gradio as gr

from cbsae_hub.hub.files import plain
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import BadBasket, Basket, checked, concept_of, span_of, watched_word
from cbsae_hub.studio.links import MAX_QUERY, MAX_QUESTION, MAX_SEED, MAX_STEPS, MIN_STEPS, OPS
from cbsae_hub.studio.server.experiments import STEPS, Intervention
from cbsae_hub.studio.server.loaded import Loaded, public_id
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.visit import LOOKUP, WORK, kindly, row_of
from cbsae_hub.studio.tabs.steer_image import whole
from cbsae_hub.studio.view.html import table
from cbsae_hub.studio.view.pictures import as_webp, data_uri, from_text

MAX_RESULTS = 50
ENDPOINTS: dict[str, dict[str, Any]] = {  # methods of Api, and the queues that they wait in
    "find_neurons": LOOKUP, "neuron_info": LOOKUP, "model_info": LOOKUP, "encode_image": WORK, "steer_caption": WORK,
    "steer_image": WORK,
}  # fmt: skip


class Api:
    """What other programs may ask; models are named as :meth:`model_info` lists them, "" is the first.

    Args:
        serving: The models.
    """

    def __init__(self, serving: Serving):
        self.serving = serving

    def publish(self) -> None:
        """Adds the endpoints to the page that is being built."""
        for name, settings in ENDPOINTS.items():
            gr.api(_endpoint(getattr(self, name)), api_name=name, **_queue_of(settings))

    def find_neurons(self, query: str, limit: int = 10, model: str = "") -> dict:
        """Finds the neurons that stand for a concept.

        Args:
            query: One or a few words, such as "pizza".
            limit: At most so many neurons, 1 to 50.
            model: One of those that model_info lists; empty for the first.

        Returns:
            verdict: "strong", "weak" or "not in this model"; reason: why; neurons, best first; nearest: concepts that
            are near by meaning or by spelling, as near_by says.
        """
        loaded = self._loaded(model)
        text, count = _text("query", query, MAX_QUERY), whole(limit, 1, MAX_RESULTS)
        found = loaded.pack.find(text, count, None if loaded.judge is None else loaded.judge.embed_texts)
        ids = list(dict.fromkeys(match.neuron for match in found.matches))
        return {
            "verdict": found.verdict,
            "reason": found.reason,
            "neurons": [_short(loaded, neuron) for neuron in ids],
            "nearest": found.nearest,
            "near_by": found.near_by,
        }

    def neuron_info(self, neuron: int, model: str = "") -> dict:
        """Everything that is known of one neuron: names, scores, how often and how strongly it fires, neighbours.

        Args:
            neuron: Its number.
            model: One of those that model_info lists; empty for the first.

        Returns:
            The columns of the neuron table (docs/neuron-table.md), its strengths, neighbours and example images.
        """
        loaded = self._loaded(model)
        row = row_of(loaded, neuron)
        span = span_of(loaded, row.neuron)
        return {
            **{name: plain(value) for name, value in row._asdict().items()},
            "strengths": {"low": span.low, "high": span.high, "recommended": span.band, "p99": plain(span.p99)},
            "neighbours": [
                {**_short(loaded, other), "cosine": cosine} for other, cosine in loaded.neighbours(row.neuron)
            ],
            "examples": [
                {"picture": f"s{example.image_id}", "activation": example.activation, "shows": example.alt}
                for example in loaded.pack.examples(row.neuron, "top", 9)
            ],
        }

    def model_info(self, model: str = "") -> dict:
        """The models of this page, and what one of them is.

        Args:
            model: One of the models; empty for the first.

        Returns:
            models, the one described, its encoder, size, scores, and the number of its neurons.
        """
        loaded = self._loaded(model)
        scores = loaded.pack.info["scores"]
        return {
            "models": list(self.serving.models),
            "model": loaded.name,
            "revision": loaded.sae.revision,
            "neurons": len(loaded.pack.neurons),
            "concepts": list(getattr(loaded.sae, "concepts", [])),
            "steers": {name: public_id(given) for name, given in self.serving.generators.ids.items() if given},
            **{name: loaded.pack.info[name] for name in ("encoder", "judge", "images", "grid")},
            "scores": {name: plain(scores[name]) for name in ("reconstruction", "shares") if name in scores},
        }

    def encode_image(self, image: str, limit: int = 10, model: str = "") -> dict:
        """The neurons that fire on a picture, strongest first, and where.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            limit: At most so many neurons, 1 to 50.
            model: One of those that model_info lists; empty for the first.

        Returns:
            neurons with their mean activation and the strongest patch (row, column, from 0); what the SAE keeps.
        """
        loaded, count = self._loaded(model), whole(limit, 1, MAX_RESULTS)
        seen = loaded.inspect(from_text(image, loaded.pack))
        columns = seen.grid[1]
        neurons = []
        for place, neuron in enumerate(seen.active[:count].tolist()):
            patch = int(seen.latents[seen.before :, place].argmax())
            neurons.append(
                {
                    **_short(loaded, neuron),
                    "activation": float(seen.latents[:, place].mean()),
                    "strongest": float(seen.latents[:, place].max()),
                    "patch": [patch // columns, patch % columns],
                }
            )
        return {"neurons": neurons, "active": len(seen.active), "explained": seen.explained, "cosine": seen.cosine}

    def steer_caption(
        self,
        image: str,
        question: str,
        edits: list[dict],
        alone: bool = False,
        op: str = "set",
        keep_error: bool = False,
        word: str = "",
        model: str = "",
    ) -> dict:
        """What LLaVA says of a picture when neurons are set, beside what it says otherwise.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            question: What LLaVA is asked.
            edits: Up to five of {"neuron": 12, "value": 50.0}; neuron_info tells which values make sense.
            alone: Nothing but these neurons is active.
            op: "set" or "add".
            keep_error: What the SAE loses of the picture is put back.
            word: Whose probability is wanted; empty for the name of the strongest neuron.
            model: One of those that model_info lists; empty for the first.

        Returns:
            original, sae, steered, random: answer and probability each; word: whose probability that is.
        """
        loaded = self._loaded(model)
        basket, shown = _basket(edits, loaded), from_text(image, loaded.pack)
        asked_for = watched_word(loaded, basket, _text("word", word, 40, empty=True))
        text = _text("question", question or ONE_WORD, MAX_QUESTION)
        if "<image>" in text:
            raise BadBasket("question must not contain <image>.")
        asked = self.serving.experiments.ask(
            loaded, shown, text, _intervention(basket, alone, op, keep_error), asked_for
        )
        parts = {name: getattr(asked, name) for name in ("original", "sae", "steered", "random")}
        told = {name: {"answer": said.answer, "probability": said.probability} for name, said in parts.items()}
        return {**told, "word": asked_for}

    def steer_image(
        self,
        image: str,
        edits: list[dict],
        seed: int = 0,
        steps: int = STEPS,
        alone: bool = False,
        op: str = "set",
        keep_error: bool = False,
        model: str = "",
    ) -> dict:
        """What unCLIP makes of a picture when neurons are set, beside what it draws otherwise.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            edits: Up to five of {"neuron": 12, "value": 50.0}; neuron_info tells which values make sense.
            seed: Of the noise.
            steps: Of denoising, 5 to 30.
            alone: Nothing but these neurons is active.
            op: "set" or "add".
            keep_error: What the SAE loses of the picture is put back.
            model: One of those that model_info lists; empty for the first.

        Returns:
            original, steered, random: a WebP each, with its cosine to the concept and to original. Assistants get the
            images themselves; by HTTP they are data addresses.
        """
        loaded = self._loaded(model)
        basket, shown = _basket(edits, loaded), from_text(image, loaded.pack)
        settings = (whole(seed, 0, MAX_SEED), whole(steps, MIN_STEPS, MAX_STEPS))
        word = watched_word(loaded, basket)
        row = self.serving.experiments.draw_once(
            loaded, shown, _intervention(basket, alone, op, keep_error), word, *settings
        )
        return {
            name: {"picture": data_uri(as_webp(drawn.picture)), "concept": drawn.concept, "original": drawn.original}
            for name, drawn in zip(("original", "steered", "random"), row)
        }

    def _loaded(self, model: Any) -> Loaded:
        return self.serving.first if model == "" else self.serving.of(model)


def described() -> str:
    """What may be asked, with which arguments: for people."""
    rows = []
    for name in ENDPOINTS:
        method = getattr(Api, name)
        about = [" ".join(part.split()) for part in inspect.getdoc(method).replace("Returns:", "Args:").split("Args:")]
        arguments = ", ".join(str(argument) for argument in list(inspect.signature(method).parameters.values())[1:])
        rows.append([f"{name}({arguments})", *about])
    return table(["endpoint", "what it does", "arguments", "answer"], rows)


def _endpoint(method: Any) -> Any:
    """A plain function with the method's own signature, whose errors are sentences."""

    @wraps(method)
    def endpoint(*arguments: Any, **named: Any) -> Any:
        return kindly(method, told=str)(*arguments, **named)

    return endpoint


def _queue_of(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("concurrency_id", "concurrency_limit")}


def _basket(edits: Any, loaded: Loaded) -> Basket:
    if not isinstance(edits, list) or not all(
        isinstance(edit, dict) and edit.keys() == {"neuron", "value"} for edit in edits
    ):
        raise BadBasket('edits must be a list of {"neuron": 12, "value": 50.0}.')
    return Basket(checked([(edit["neuron"], edit["value"], False) for edit in edits], loaded))


def _text(name: str, value: Any, limit: int, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > limit or not (empty or value.strip()):
        raise BadBasket(f"{name} must be a text of at most {limit} letters.")
    return value


def _intervention(basket: Basket, alone: Any, op: Any, keep_error: Any) -> Intervention:
    if not isinstance(alone, bool) or not isinstance(keep_error, bool) or op not in OPS:
        raise BadBasket('alone and keep_error must be true or false, op must be "set" or "add".')
    return Intervention(basket.edits, alone, op, keep_error)


def _short(loaded: Loaded, neuron: int) -> dict[str, Any]:
    row = loaded.pack.neurons[neuron]
    return {"neuron": neuron, "name": concept_of(loaded, neuron), "score": plain(row.score), "kind": row.kind}
