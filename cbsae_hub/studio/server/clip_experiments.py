"""The page's experiments with CLIP: its most probable words as neurons are set, and the neurons that decide on them.

Only the blocks after the SAE's run: what they get of a picture is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cbsae_hub.steering import RandomDirection
from cbsae_hub.steering.clip import ClipZeroShotSteerer
from cbsae_hub.steering.controls import CONTROL_SEED, with_controls
from cbsae_hub.steering.removal import remove_each
from cbsae_hub.steering.suppression import edited_tokens
from cbsae_hub.studio.server.experiments import FACTORS, Experiment
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.refusal import Refused

BARS = 8  # words
DECISIVE = 10  # neurons
MAX_PICTURES, MAX_CURVES, MAX_WATCHED = 32, 128, 16  # that are remembered

T = TypeVar("T")


@dataclass(frozen=True)
class Curve:
    """Distributions over a vocabulary at the strengths of :data:`FACTORS`.

    Attributes:
        vocabulary: The words; the last one may be a word to watch.
        original: P of the picture as it is, ``[vocabulary]``.
        steered: P at each strength, ``[strengths, vocabulary]``.
        random: P when the picture is pushed as far in a random direction, likewise.
    """

    vocabulary: tuple[str, ...]
    original: Tensor
    steered: Tensor
    random: Tensor

    def words(self, word: str) -> list[int]:
        """Returns places of the words to show, the most probable of the picture as it is first; ``word`` is there.

        They are those that are probable at some strength, so that they stay where they are while it changes.
        """
        peaks = torch.cat([self.original[None], self.steered]).amax(0)
        chosen = peaks.argsort(descending=True, stable=True)[:BARS].tolist()
        if word in self.vocabulary and self.vocabulary.index(word) not in chosen:
            chosen[-1] = self.vocabulary.index(word)
        return sorted(chosen, key=lambda place: -float(self.original[place]))


@dataclass(frozen=True)
class Bars:
    """Probabilities of some words, by the version of the experiment; see :func:`with_controls`.

    Attributes:
        words: The words.
        versions: Their probabilities, by "original", "sae", "steered" and "random".
    """

    words: list[str]
    versions: dict[str, list[float]]


@dataclass(frozen=True)
class Decisive:
    """A neuron that fires on a picture, and what CLIP says without it.

    Attributes:
        neuron: Its number.
        probability: Probability of the picture's word without it.
        instead: The most probable word without it.
        heat: Where it fires, 0..1 ``[rows, columns]``; None for a model of tokens without a place.
    """

    neuron: int
    probability: float
    instead: str
    heat: np.ndarray | None


@dataclass(frozen=True)
class Decision:
    """CLIP's answer about a picture, and the neurons that it hangs on most.

    Attributes:
        word: The most probable word.
        probability: Its probability.
        neurons: Those whose removal lowers it most, first the one that lowers it most.
        webp: The picture as it enters the encoder.
        active: Number of neurons that fire.
    """

    word: str
    probability: float
    neurons: list[Decisive]
    webp: bytes
    active: int


class ClipExperiments:
    """Runs experiments with CLIP; curves and decisions, which cost more than a few milliseconds, are run once."""

    def __init__(self) -> None:
        self._pictures: Results[Tensor] = Results(MAX_PICTURES)
        self._curves: Results[Curve] = Results(MAX_CURVES)
        self._decisions: Results[Decision] = Results(MAX_CURVES)
        self._watching: Results[ClipZeroShotSteerer] = Results(MAX_WATCHED)

    def curve(self, experiment: Experiment) -> Curve:
        """Returns CLIP's distributions at several strengths, all in one batch.

        Raises:
            Unavailable: If the model's encoder is no CLIP.
            EditError: If steering has no effect.
        """

        def compute() -> Curve:
            clip = self._clip(experiment)
            steered = [experiment.steering.scaled(factor) for factor in FACTORS]
            steerings = [None, *steered, *(RandomDirection(one, CONTROL_SEED) for one in steered)]
            answers = clip.effect_from(self._activations(experiment).expand(len(steerings), -1, -1), steerings).after
            original, steered_answers, random = answers.split([1, len(FACTORS), len(FACTORS)])
            return Curve(clip.vocabulary, original[0], steered_answers, random)

        return self._curves.of(experiment.key, compute)

    def bars(self, experiment: Experiment, factor: float = 1.0) -> Bars:
        """Returns the words' probabilities at a multiple of all strengths; errors as :meth:`curve`."""
        curve = self.curve(experiment)
        steerings = with_controls(experiment.steering.scaled(factor))
        v = self._activations(experiment).expand(len(steerings), -1, -1)
        answers = self._clip(experiment).effect_from(v, list(steerings.values())).after
        places = curve.words(experiment.word)
        versions = {name: answer[places].tolist() for name, answer in zip(steerings, answers)}
        return Bars([curve.vocabulary[place] for place in places], versions)

    def decision(self, experiment: Experiment, of_pack: bool = False) -> Decision:
        """Returns the neurons that CLIP's answer about the unsteered picture hangs on most.

        Args:
            experiment: Its model and picture count.
            of_pack: Whether the picture is one of the pack's.

        Raises:
            Refused: If no neuron fires, or the SAE reads tokens that CLIP's answer does not hang on.
        """

        def compute() -> Decision:
            model = experiment.model
            clip, inspection = model.clip, model.inspect(experiment.image, of_pack)
            tokens = refusing(lambda: edited_tokens(model.encoder, model.sae))
            v = self._activations(experiment)[0]
            removals = refusing(lambda: remove_each(clip, v, inspection.active.tolist(), tokens))
            places = {int(neuron): place for place, neuron in enumerate(inspection.active)}

            def decisive(neuron: int, answer: Tensor) -> Decisive:
                heat = None
                if inspection.grid is not None:
                    strengths = inspection.latents[inspection.before :, places[neuron]]
                    heat = (strengths / max(strengths.max(), 1e-12)).reshape(inspection.grid)
                return Decisive(neuron, float(answer[removals.word]), clip.vocabulary[int(answer.argmax())], heat)

            before = float(removals.before[removals.word])
            neurons = [decisive(*pair) for pair in zip(removals.neurons[:DECISIVE].tolist(), removals.after)]
            return Decision(
                clip.vocabulary[removals.word], before, [one for one in neurons if one.probability < before],
                inspection.webp, len(places),
            )  # fmt: skip

        return self._decisions.of(experiment.key[:2], compute)

    def _activations(self, experiment: Experiment) -> Tensor:
        """Returns the picture's activations at the SAE's block, ``[1, tokens, d]``."""
        model = experiment.model
        key = (model.sae.encoder_id, model.sae.encoder_revision, model.sae.layer, experiment.key[1])
        return self._pictures.of(key, lambda: model.clip.activations([experiment.image]))

    def _clip(self, experiment: Experiment) -> ClipZeroShotSteerer:
        """Returns the model's CLIP, with the watched word in its vocabulary."""
        model, word = experiment.model, experiment.word
        return self._watching.of((model.key, word), lambda: model.clip.with_word(word)) if word else model.clip


def refusing(compute: Callable[[], T]) -> T:
    """Returns what a computation returns; what it finds wrong with its input is refused in its words."""
    try:
        return compute()
    except ValueError as error:
        message = str(error)
        raise Refused(message[:1].upper() + message[1:] + ".") from error
