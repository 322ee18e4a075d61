"""The public endpoints, for gradio_client, curl and assistants (MCP): typed, documented, and checked like the page."""

import inspect
from typing import Any

import gradio as gr

from cbsae_hub.hub.files import plain
from cbsae_hub.neurons.chance import by_chance
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.studio.basket import Basket, checked, concept_of, range_of, watched_word
from cbsae_hub.studio.links import MAX_QUERY, MAX_QUESTION, MAX_SEED, MAX_STEPS, MAX_TAU, MAX_WORD, MIN_STEPS, OPS
from cbsae_hub.studio.server.experiments import STEPS, Experiment
from cbsae_hub.studio.server.groups import MAX_SET, labels_of
from cbsae_hub.studio.server.model import LoadedModel
from cbsae_hub.studio.server.names import public_id
from cbsae_hub.studio.server.refusal import Refused, kindly
from cbsae_hub.studio.server.serving import Serving
from cbsae_hub.studio.server.session import LOOKUP, WORK, row_of
from cbsae_hub.studio.tabs.steer_image import whole
from cbsae_hub.studio.view.images import as_webp, data_uri, from_text, is_sample, smaller

MAX_RESULTS = 50
ENDPOINTS: dict[str, dict[str, Any]] = {  # methods of Api, and the queues that they wait in
    "find_neurons": LOOKUP, "neuron_info": LOOKUP, "model_info": LOOKUP, "encode_image": WORK, "steer_caption": WORK,
    "steer_image": WORK, "steer_clip": WORK, "suppress": WORK,
}  # fmt: skip


class Api:
    """The endpoints; models are named as :meth:`model_info` lists them, "" is the first."""

    def __init__(self, serving: Serving):
        self.serving = serving

    def publish(self) -> None:
        """Adds the endpoints to the page that is being built."""
        for name, settings in ENDPOINTS.items():
            queue = {key: settings[key] for key in ("concurrency_id", "concurrency_limit")}
            gr.api(kindly(getattr(self, name), to_text=str), api_name=name, **queue)

    def find_neurons(self, query: str, limit: int = 10, model: str = "") -> dict:
        """Finds the neurons that stand for a concept.

        Args:
            query: One or a few words, such as "pizza".
            limit: Largest number of neurons, 1 to 50.
            model: One of those that model_info lists; empty for the first.

        Returns:
            verdict: "strong", "weak" or "not in this model"; reason: why; neurons, best first; nearest: concepts that
            are near by meaning or by spelling, as near_by says.
        """
        loaded_model = self._model(model)
        answer, ids = loaded_model.find(_text("query", query, MAX_QUERY), whole(limit, 1, MAX_RESULTS))
        return {
            "verdict": answer.verdict,
            "reason": answer.reason,
            "neurons": [_short(loaded_model, neuron) for neuron in ids],
            "nearest": answer.nearest,
            "near_by": answer.near_by,
        }

    def neuron_info(self, neuron: int, model: str = "") -> dict:
        """Returns everything that is known of one neuron: names, scores, how often and strongly it fires, neighbours.

        Args:
            neuron: Its number.
            model: One of those that model_info lists; empty for the first.

        Returns:
            The columns of the neuron table (docs/neuron-table.md), its strengths, neighbours and example images.
        """
        loaded_model = self._model(model)
        row = row_of(loaded_model, neuron)
        span = range_of(loaded_model, row.neuron)
        return {
            **{name: plain(value) for name, value in row._asdict().items()},
            "strengths": {"low": span.low, "high": span.high, "recommended": span.band, "p99": plain(span.p99)},
            "neighbours": [
                {**_short(loaded_model, other), "cosine": cosine}
                for other, cosine in loaded_model.neighbours(row.neuron)
            ],
            "examples": [
                {"picture": f"s{example.image_id}", "activation": example.activation, "shows": example.alt}
                for example in loaded_model.pack.examples(row.neuron, "top", 9)
            ],
        }

    def model_info(self, model: str = "") -> dict:
        """Lists the models of this page, and describes one of them.

        Args:
            model: One of the models; empty for the first.

        Returns:
            models, the one described, its encoder, size, scores, and the number of its neurons.
        """
        loaded_model = self._model(model)
        scores = loaded_model.pack.info["scores"]
        return {
            "models": list(self.serving.models),
            "model": loaded_model.name,
            "revision": loaded_model.sae.revision,
            "neurons": len(loaded_model.pack.neurons),
            "concepts": loaded_model.concepts,
            "steers": {name: public_id(source) for name, source in self.serving.generators.ids.items() if source},
            **{name: loaded_model.pack.info[name] for name in ("encoder", "judge", "images", "grid")},
            "scores": {name: plain(scores[name]) for name in ("reconstruction", "shares") if name in scores},
        }

    def encode_image(self, image: str, limit: int = 10, model: str = "") -> dict:
        """Returns the neurons that fire on a picture, strongest first, and where.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            limit: Largest number of neurons, 1 to 50.
            model: One of those that model_info lists; empty for the first.

        Returns:
            neurons with their mean activation and the strongest patch (row, column, from 0; null for models of tokens
            without a place); what the SAE keeps.
        """
        loaded_model, count = self._model(model), whole(limit, 1, MAX_RESULTS)
        of_pack = is_sample(str(image), loaded_model.pack)
        inspection = loaded_model.inspect(from_text(image, loaded_model.pack), of_pack)
        neurons = []
        for place, neuron in enumerate(inspection.active[:count].tolist()):
            strengths = inspection.latents[:, place]
            patch = None
            if inspection.grid is not None:
                patch = list(divmod(int(strengths[inspection.before :].argmax()), inspection.grid[1]))
            neurons.append(
                {
                    **_short(loaded_model, neuron),
                    "activation": float(strengths.mean()),
                    "strongest": float(strengths.max()),
                    "patch": patch,
                }
            )
        return {
            "neurons": neurons,
            "active": len(inspection.active),
            "explained": inspection.explained,
            "cosine": inspection.cosine,
        }

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
        """Asks LLaVA about a picture when neurons are set, and otherwise.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            question: A question to LLaVA.
            edits: Up to five of {"neuron": 12, "value": 50.0}; neuron_info tells which values make sense.
            alone: Whether all other neurons are inactive.
            op: "set" or "add".
            keep_error: Whether the SAE's reconstruction error of the picture is added back.
            word: A word whose probability is returned; empty for the name of the strongest neuron.
            model: One of those that model_info lists; empty for the first.

        Returns:
            original, sae, steered, random: answer and probability each; word: whose probability that is.
        """
        loaded_model = self._model(model)
        typed, text = _text("word", word, MAX_WORD, empty=True), _text("question", question or ONE_WORD, MAX_QUESTION)
        experiment = _experiment(loaded_model, image, edits, alone, op, keep_error, typed)
        if "<image>" in text:
            raise Refused("question must not contain <image>.")
        answers = self.serving.experiments.ask(experiment, text)
        parts = {name: getattr(answers, name) for name in ("original", "sae", "steered", "random")}
        answer = {name: {"answer": part.text, "probability": part.probability} for name, part in parts.items()}
        return {**answer, "word": experiment.word}

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
        """Lets unCLIP draw a picture anew when neurons are set, and otherwise.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            edits: Up to five of {"neuron": 12, "value": 50.0}; neuron_info tells which values make sense.
            seed: Seed of the noise.
            steps: Number of steps of denoising, 5 to 30.
            alone: Whether all other neurons are inactive.
            op: "set" or "add".
            keep_error: Whether the SAE's reconstruction error of the picture is added back.
            model: One of those that model_info lists; empty for the first.

        Returns:
            original, steered, random: a WebP each, with its cosine to the concept and to original. Assistants get the
            images themselves; by HTTP they are data addresses.
        """
        loaded_model = self._model(model)
        experiment = _experiment(loaded_model, image, edits, alone, op, keep_error)
        seeds, count = [whole(seed, 0, MAX_SEED)], whole(steps, MIN_STEPS, MAX_STEPS)
        row = next(self.serving.experiments.draw(experiment, seeds, count, factors=(1.0,)))
        return {
            name: {"picture": data_uri(as_webp(one.image)), "concept": one.concept, "original": one.original}
            for name, one in zip(("original", "steered", "random"), row)
        }

    def steer_clip(
        self,
        image: str,
        edits: list[dict],
        alone: bool = False,
        op: str = "set",
        keep_error: bool = False,
        word: str = "",
        decisive: bool = False,
        model: str = "",
    ) -> dict:
        """Asks CLIP which words are most probable for a picture when neurons are set, and otherwise.

        Args:
            image: "white", "s12" for image 12 of the pack, or base64 of a PNG, JPEG or WebP. Addresses are not fetched.
            edits: Up to five of {"neuron": 12, "value": 50.0}; neuron_info tells which values make sense.
            alone: Whether all other neurons are inactive.
            op: "set" or "add".
            keep_error: Whether the SAE's reconstruction error of the picture is added back.
            word: A word that is among those that are returned; empty for the name of the strongest neuron.
            decisive: Whether neurons are sought without which the picture's most probable word loses most.
            model: One of those that model_info lists; empty for the first.

        Returns:
            original, sae, steered, random: probability by word; decisive: the unsteered picture's word, its
            probability, and neurons with the word's probability without each, and the most probable word then; null if
            they were not sought.
        """
        loaded_model = self._model(model)
        typed = _text("word", word, MAX_WORD, empty=True)
        if not isinstance(decisive, bool):
            raise Refused("decisive must be true or false.")
        experiment = _experiment(loaded_model, image, edits, alone, op, keep_error, typed)
        bars = self.serving.clip_experiments.bars(experiment)
        answer: dict[str, Any] = {name: dict(zip(bars.words, values)) for name, values in bars.versions.items()}
        answer["decisive"] = None
        if decisive:
            of_pack = is_sample(str(image), loaded_model.pack)
            decision = self.serving.clip_experiments.decision(experiment, of_pack)
            neurons = [
                {**_short(loaded_model, one.neuron), "without": one.probability, "instead": one.instead}
                for one in decision.neurons
            ]
            answer["decisive"] = {"word": decision.word, "probability": decision.probability, "neurons": neurons}
        return answer

    def suppress(
        self, first: list[str], second: list[str], answers: list[str], tau: float = 0.1, model: str = ""
    ) -> dict:
        """Finds the neurons that fire more on one set of pictures than on another, and asks CLIP without them.

        Args:
            first: Pictures that have something in common, as for encode_image; up to 24. Empty, like the next two: the
                model's labelled pictures.
            second: Pictures without it, up to 24.
            answers: Words among which CLIP chooses: the first is right for the first set, the second for the second
                one, and others follow. Empty: CLIP is not asked.
            tau: Least difference of a neuron's means on the two sets.
            model: One of those that model_info lists; empty for the first.

        Returns:
            neurons, largest difference first, at most 50, with their means on both sets; off: how many are switched
            off; groups: the share of right answers of each, as it is, without them, and without as many random ones.
        """
        loaded_model, groups = self._model(model), self.serving.groups
        if not all(isinstance(part, list) for part in (first, second, answers)):
            raise Refused("first, second and answers must be lists of texts.")
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 <= tau <= 10**MAX_TAU:
            raise Refused(f"tau must be a number from 0 to {10**MAX_TAU:g}.")
        if first or second:
            if max(len(first), len(second)) > MAX_SET or len(answers) > MAX_SET:
                raise Refused(f"A set has at most {MAX_SET} pictures, and there are at most {MAX_SET} answers.")
            one_set, other = ([smaller(from_text(one, loaded_model.pack)) for one in part] for part in (first, second))
            words = [_text("answers", one, MAX_WORD) for one in answers]
            reading = groups.sets(loaded_model, one_set, other, words)
        else:
            reading = groups.samples(loaded_model, labels_of(loaded_model))
        features, answered = groups.suppress(loaded_model, reading, float(tau))
        means, versions = reading.difference, (reading.before, answered.after, answered.random)
        shares = [[None] * len(reading.names) if one is None else one.groups for one in versions]
        return {
            "neurons": [
                {**_short(loaded_model, one), "first": float(means.present[one]), "second": float(means.absent[one])}
                for one in features[:MAX_RESULTS]
            ],
            "off": answered.off,
            "groups": [
                {"group": name, "original": before, "suppressed": after, "random": random}
                for name, before, after, random in zip(reading.names, *shares)
            ],
        }

    def _model(self, model: Any) -> LoadedModel:
        return self.serving.first if model == "" else self.serving.of(model)


def descriptions() -> list[list[str]]:
    """Returns each endpoint's call, what it does, its arguments and its answer, for people."""
    rows = []
    for name in ENDPOINTS:
        method = getattr(Api, name)
        document = (inspect.getdoc(method) or "").replace("Returns:", "Args:")
        about = [" ".join(part.split()) for part in document.split("Args:")]
        arguments = ", ".join(str(argument) for argument in list(inspect.signature(method).parameters.values())[1:])
        rows.append([f"{name}({arguments})", *about])
    return rows


def _experiment(
    loaded_model: LoadedModel, image: Any, edits: Any, alone: Any, op: Any, keep_error: Any, word: str = ""
) -> Experiment:
    if not isinstance(edits, list) or not all(
        isinstance(edit, dict) and edit.keys() == {"neuron", "value"} for edit in edits
    ):
        raise Refused('edits must be a list of {"neuron": 12, "value": 50.0}.')
    if not isinstance(alone, bool) or not isinstance(keep_error, bool) or op not in OPS:
        raise Refused('alone and keep_error must be true or false, op must be "set" or "add".')
    basket = Basket(checked([(edit["neuron"], edit["value"]) for edit in edits], loaded_model))
    image, steering = from_text(image, loaded_model.pack), basket.steering(alone, op, keep_error)
    return Experiment(loaded_model, image, steering, watched_word(loaded_model, basket, word))


def _text(name: str, value: Any, limit: int, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > limit or not (empty or value.strip()):
        raise Refused(f"{name} must be a text of at most {limit} letters.")
    return value


def _short(loaded_model: LoadedModel, neuron: int) -> dict[str, Any]:
    row = loaded_model.pack.neurons[neuron]
    return {"neuron": neuron, "name": concept_of(loaded_model, neuron), "score": plain(row.score), "kind": row.kind,
            "by_chance": by_chance(row)}  # fmt: skip
