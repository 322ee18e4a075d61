"""The page's experiments: LLaVA answers and unCLIP draws, steered and with everything that is to be compared with it.

Greedy answers and seeded drawings depend on nothing but their settings: results are kept and serve all visitors.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from cbsae_hub.hub.files import sha256
from cbsae_hub.pictures import white_image
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import Edit, RandomDirection, Steering
from cbsae_hub.steering.controls import CONTROL_SEED, with_controls
from cbsae_hub.steering.edits import AnySteering
from cbsae_hub.studio.basket import concept_of, range_of
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.memory import Results
from cbsae_hub.studio.server.model import LoadedModel

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of a sweep: multiples of all strengths in the basket
DRAWN_FACTORS = (0.5, 1.0, 1.5)
MAX_NEW_TOKENS = 48
GUIDANCE = 10.0  # unless steerability was measured with another one
MAX_ANSWERS = 512  # that are remembered
MAX_ROWS, MAX_ICONS = 24, 128  # drawings: of a real unCLIP, 1.8 MB each
STEPS = 20
ZERO_GPU = "SPACES_ZERO_GPU"  # set by Spaces that borrow a GPU for each call

Stop = Callable[[], bool]
Steerings = Sequence[AnySteering | None]


@dataclass(frozen=True)
class Experiment:
    """An image that is steered.

    Attributes:
        model: The model whose neurons are set.
        image: The image.
        steering: The change of the image's activations.
        word: The word that answers and drawings are compared with; "" for none.
    """

    model: LoadedModel
    image: Image.Image
    steering: Steering
    word: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything that the results depend on."""
        pixels = sha256(f"{self.image.size}", self.image.tobytes())
        return self.model.key, pixels, self.steering, self.word


@dataclass(frozen=True)
class Answer:
    """An answer of LLaVA.

    Attributes:
        text: The answer.
        probability: Probability of the watched word if LLaVA is asked for one word; None without such a word.
    """

    text: str
    probability: float | None


@dataclass(frozen=True)
class Answers:
    """Answers to one question: unsteered, through the SAE alone, steered, and pushed as far in a random direction."""

    original: Answer
    sae: Answer
    steered: Answer
    random: Answer
    seconds: float


@dataclass(frozen=True)
class Drawing:
    """A drawing of unCLIP.

    Attributes:
        image: The drawing.
        concept: Cosine of the judge's embeddings of the drawing and the watched word; None without word or judge.
        original: Cosine with the unsteered drawing; None without judge.
    """

    image: Image.Image
    concept: float | None
    original: float | None


SweepRow = tuple[float, Answer, Answer]
"""A factor, the steered answer, and that of the control."""


class Experiments:
    """Runs experiments; the same one is run once.

    Args:
        find: Returns the model of a key. What may run on a borrowed GPU gets keys: there, arguments are pickled and
            sent.
    """

    def __init__(self, find: Callable[[str], LoadedModel]):
        self._find = find
        self._answers: Results[Answers] = Results(MAX_ANSWERS)
        self._sweeps: Results[list[SweepRow]] = Results(MAX_ANSWERS)
        self._drawings: Results[list[Drawing]] = Results(MAX_ROWS)
        self._alone: Results[tuple[Answer | None, Drawing | None]] = Results(MAX_ICONS)
        self._say = on_gpu(self._say_now, lambda _key, _image, steerings, *_: 10 + 2 * len(steerings))
        self._draw = on_gpu(self._draw_now, lambda _key, _image, steerings, *_: 10 + 3 * len(steerings))

    def ask(self, experiment: Experiment, question: str, stop: Stop | None = None) -> Answers:
        """Asks LLaVA about an image.

        Args:
            experiment: The image, and how it is steered.
            question: The question.
            stop: Called again and again; once it returns True, nothing more is computed.

        Raises:
            Unavailable: If there is no LLaVA here.
            Stopped: If ``stop`` returned True.
            EditError: If steering had no effect.
        """

        def compute() -> Answers:
            start = time.perf_counter()
            steerings = list(with_controls(experiment.steering).values())
            answers = self._say(experiment.model.key, experiment.image, steerings, question, experiment.word, stop)
            original, sae, answer, control = answers
            return Answers(original, sae, answer, control, time.perf_counter() - start)

        return self._answers.of((*experiment.key, question), compute)

    def sweep(self, experiment: Experiment, question: str, stop: Stop | None = None) -> list[SweepRow]:
        """Asks LLaVA at several multiples of all strengths; arguments and errors as :meth:`ask`."""

        def compute() -> list[SweepRow]:
            steered = [experiment.steering.scaled(factor) for factor in FACTORS]
            controls = [RandomDirection(one, CONTROL_SEED) for one in steered]
            answers = self._say(
                experiment.model.key, experiment.image, [*steered, *controls], question, experiment.word, stop
            )
            return list(zip(FACTORS, answers, answers[len(FACTORS) :]))

        return self._sweeps.of((*experiment.key, question), compute)

    def draw(
        self, experiment: Experiment, seeds: Sequence[int], steps: int, stop: Stop | None = None,
        factors: tuple[float, ...] = DRAWN_FACTORS,
    ) -> Iterator[list[Drawing]]:  # fmt: skip
        """Draws an image anew, for each seed: unsteered, at multiples of all strengths, and with a random direction.

        Args:
            experiment: The image, and how it is steered.
            seeds: Seeds of the noise; drawings of one seed start alike.
            steps: Number of steps of denoising.
            stop: See :meth:`ask`, as for errors.
            factors: The multiples.
        """
        steered = experiment.steering
        steerings = [None, *map(steered.scaled, factors), RandomDirection(steered, CONTROL_SEED)]
        draw = partial(self._draw, experiment.model.key, experiment.image, steerings, experiment.word)
        for seed in seeds:
            yield self._drawings.of((*experiment.key, seed, steps, factors), partial(draw, seed, steps, stop))

    def neuron_alone(self, model: LoadedModel, neuron: int) -> tuple[Answer | None, Drawing | None]:
        """Has LLaVA answer and unCLIP draw when nothing but one neuron is active; None where one is unavailable.

        Raises:
            EditError: If that has no effect.
        """

        def compute() -> tuple[Answer | None, Drawing | None]:
            word = concept_of(model, neuron) or ""
            alone = [Steering([Edit(neuron, range_of(model, neuron).start)], isolate=True)]
            blank = white_image()
            answer = drawing = None
            with suppress(Unavailable):
                answer = self._say(model.key, blank, alone, ONE_WORD, word, None)[0]
            with suppress(Unavailable):
                drawing = self._draw(model.key, blank, alone, word, CONTROL_SEED, STEPS, None)[0]
            return answer, drawing

        return self._alone.of((model.key, neuron), compute)

    def _say_now(
        self, key: str, image: Image.Image, steerings: Steerings, question: str, word: str, stop: Stop | None
    ) -> list[Answer]:
        """Returns answers with each steering, all in one batch."""
        llava = self._find(key).llava
        features = llava.image_features([image] * len(steerings), steerings)
        answers = llava.answer(features, [question] * len(steerings), MAX_NEW_TOKENS, stop=stop)
        if not word:
            return [Answer(text, None) for text in answers]
        probabilities = llava.probability(features, ONE_WORD, word).tolist()
        return [Answer(*pair) for pair in zip(answers, probabilities)]

    def _draw_now(
        self, key: str, image: Image.Image, steerings: Steerings, word: str, seed: int, steps: int, stop: Stop | None
    ) -> list[Drawing]:
        """Returns drawings with each steering and one seed, all in one batch; others are compared with the first."""
        model = self._find(key)
        unclip, judge = model.unclip, model.judge
        embeddings = unclip.image_embeds([image] * len(steerings), steerings)
        guidance = model.pack.info["scores"].get("steerability", {}).get("guidance", GUIDANCE)
        images = unclip.draw(embeddings, [seed] * len(steerings), steps, guidance, stop)
        if judge is None:
            return [Drawing(one, None, None) for one in images]
        embedded = judge.embed_images(images)
        like_original = (embedded @ embedded[0]).tolist()
        like_concept = (embedded @ judge.embed_texts([word])[0]).tolist() if word else [None] * len(images)
        return [Drawing(*parts) for parts in zip(images, like_concept, like_original)]


def on_gpu(function: Callable[..., Any], seconds: Callable[..., int]) -> Callable[..., Any]:
    """Returns the function as it runs on a GPU that Spaces lends; elsewhere, the function itself.

    A borrowed GPU is in another process: nobody can be asked there whether to stop.

    Args:
        function: The function; its last argument is ``stop``.
        seconds: Returns, of the same arguments, about how long the GPU is needed.
    """
    try:
        from spaces import GPU  # type: ignore[attr-defined]  # a package of Spaces, not the folder of that name here
    except ImportError:
        return function
    lent = GPU(duration=seconds)(function)
    return (lambda *arguments: lent(*arguments[:-1], None)) if os.environ.get(ZERO_GPU) else lent
