"""The page's experiments: LLaVA is asked and unCLIP draws, steered and with everything that it is to be compared with.

Greedy answers and seeded drawings depend on nothing but their settings: results are kept and serve all visitors.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cbsae_hub.hub.files import sha256
from cbsae_hub.scoring.first_words import ONE_WORD
from cbsae_hub.steering import RandomDirection, Steering
from cbsae_hub.studio.basket import concept_of, edits_of, span_of
from cbsae_hub.studio.server.generators import Unavailable
from cbsae_hub.studio.server.loaded import Loaded
from cbsae_hub.studio.server.memory import Results

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # of a sweep: multiples of all strengths in the basket
DRAWN = (0.5, 1.0, 1.5)
MAX_NEW_TOKENS = 48
CONTROL_SEED = 0
GUIDANCE = 10.0  # unless steerability was measured with another one
KEPT = 512  # answers
KEPT_ROWS, KEPT_ICONS = 24, 128  # drawings: of a real unCLIP, 1.8 MB each
STEPS = 20
ZERO_GPU = "SPACES_ZERO_GPU"  # set by Spaces that borrow a GPU for each call


@dataclass(frozen=True)
class Intervention:
    """What is done to a picture's activations.

    Args:
        edits: Neurons and their values.
        alone: Nothing but the edited neurons is active; else they are changed among all that the SAE sees.
        op: "set" or "add".
        keep_error: What the SAE loses of the picture is put back, so that strength 0 is the model as it is. The
            papers, and the scores, leave it out.
    """

    edits: tuple[tuple[int, float], ...]
    alone: bool = False
    op: str = "set"
    keep_error: bool = False

    def at(self, factor: float = 1.0) -> Steering:
        """The steering at a multiple of all values."""
        edits = edits_of(self.edits, self.op, factor)
        return Steering(edits, isolate=self.alone, keep_error=self.keep_error and not self.alone)


@dataclass(frozen=True)
class Said:
    """An answer, and how probable the watched word is when LLaVA is asked for one word; None without a word."""

    answer: str
    probability: float | None


@dataclass(frozen=True)
class Asked:
    """What LLaVA answers: unsteered, through the SAE alone, steered, and pushed as far in a random direction."""

    original: Said
    sae: Said
    steered: Said
    random: Said
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """A drawing and what it is like: cosines of the judge's embeddings, None where there is no judge."""

    picture: Image.Image
    concept: float | None
    original: float | None


class Experiments:
    """Runs them; the same one is run once.

    Args:
        find: The model of a key. What may run on a borrowed GPU gets keys: there, arguments are pickled and sent.
    """

    def __init__(self, find: Callable[[str], Loaded]):
        self._find = find
        self._asked: Results[Asked] = Results(KEPT)
        self._swept: Results[list[tuple[float, Said, Said]]] = Results(KEPT)
        self._drawn: Results[list[Drawn]] = Results(KEPT_ROWS)
        self._alone: Results[tuple[Said | None, Drawn | None]] = Results(KEPT_ICONS)
        self._say = on_gpu(self._say_now, lambda _key, _picture, steerings, *_: 10 + 2 * len(steerings))
        self._draw = on_gpu(self._draw_now, lambda _key, _picture, steerings, *_: 10 + 3 * len(steerings))

    def ask(
        self,
        loaded: Loaded,
        picture: Image.Image,
        question: str,
        how: Intervention,
        word: str,
        stop: Callable[[], bool] | None = None,
    ) -> Asked:
        """Asks LLaVA about a picture.

        Args:
            loaded: The model.
            picture: What is asked about.
            question: What is asked.
            how: What is done to its activations.
            word: The word whose probability is wanted; "" for none.
            stop: Asked again and again; once it says so, nothing more is computed.

        Raises:
            Unavailable: If there is no LLaVA here.
            Stopped: If ``stop`` said so.
            EditError: If steering had no effect.
        """

        def compute() -> Asked:
            start = time.perf_counter()
            steered = how.at()
            steerings = [None, Steering([]), steered, RandomDirection(steered, CONTROL_SEED)]
            return Asked(*self._say(loaded.key, picture, steerings, question, word, stop), time.perf_counter() - start)

        return self._asked.of((loaded.key, _hash(picture), question, how, word), compute)

    def sweep(
        self,
        loaded: Loaded,
        picture: Image.Image,
        question: str,
        how: Intervention,
        word: str,
        stop: Callable[[], bool] | None = None,
    ) -> list[tuple[float, Said, Said]]:
        """Asks LLaVA at several multiples of all strengths: the factor, the steered answer, that of the control.

        Arguments and errors as :meth:`ask`.
        """

        def compute() -> list[tuple[float, Said, Said]]:
            steered = [how.at(factor) for factor in FACTORS]
            controls = [RandomDirection(one, CONTROL_SEED) for one in steered]
            said = self._say(loaded.key, picture, [*steered, *controls], question, word, stop)
            return list(zip(FACTORS, said, said[len(FACTORS) :]))

        return self._swept.of((loaded.key, _hash(picture), question, how, word), compute)

    def draw(
        self,
        loaded: Loaded,
        picture: Image.Image,
        how: Intervention,
        word: str,
        seeds: Sequence[int],
        steps: int,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[list[Drawn]]:
        """Draws a picture anew: for each seed, unsteered, at the strengths ``DRAWN``, and with a random direction.

        Arguments and errors as :meth:`ask`.

        Args:
            loaded: The model.
            picture: What is drawn anew.
            how: What is done to its activations.
            word: What drawings are compared with; "" for nothing.
            seeds: Of the noise; drawings of one seed start alike.
            steps: Of denoising.
            stop: See :meth:`ask`.
        """
        steered = [how.at(factor) for factor in DRAWN]
        control = RandomDirection(how.at(), CONTROL_SEED)
        for seed in seeds:
            key = (loaded.key, _hash(picture), how, word, seed, steps)
            arguments = (loaded.key, picture, [None, *steered, control], word, seed, steps, stop)
            yield self._drawn.of(key, lambda arguments=arguments: self._draw(*arguments))

    def draw_once(
        self, loaded: Loaded, picture: Image.Image, how: Intervention, word: str, seed: int, steps: int
    ) -> list[Drawn]:
        """Three drawings of one seed: unsteered, steered, and with a random direction; see :meth:`draw`."""
        steered = how.at()
        steerings = [None, steered, RandomDirection(steered, CONTROL_SEED)]
        key = (loaded.key, _hash(picture), how, word, seed, steps, "once")
        return self._drawn.of(key, lambda: self._draw(loaded.key, picture, steerings, word, seed, steps, None))

    def neuron_alone(self, loaded: Loaded, neuron: int) -> tuple[Said | None, Drawn | None]:
        """What LLaVA says and unCLIP draws when nothing but one neuron is active; None for who is not there.

        Raises:
            EditError: If that has no effect.
        """

        def compute() -> tuple[Said | None, Drawn | None]:
            word = concept_of(loaded, neuron) or ""
            alone = [Intervention(((neuron, span_of(loaded, neuron).start),), alone=True).at()]
            blank = Image.new("RGB", (64, 64), "white")
            said = drawn = None
            with suppress(Unavailable):
                said = self._say(loaded.key, blank, alone, ONE_WORD, word, None)[0]
            with suppress(Unavailable):
                drawn = self._draw(loaded.key, blank, alone, word, CONTROL_SEED, STEPS, None)[0]
            return said, drawn

        return self._alone.of((loaded.key, neuron), compute)

    def _say_now(
        self,
        key: str,
        picture: Image.Image,
        steerings: Sequence[Any],
        question: str,
        word: str,
        stop: Callable[[], bool] | None,
    ) -> list[Said]:
        """Answers with each steering, all in one batch."""
        llava = self._find(key).llava
        features = llava.image_features([picture] * len(steerings), steerings)
        answers = llava.answer(features, [question] * len(steerings), MAX_NEW_TOKENS, stop=stop)
        if not word:
            return [Said(answer, None) for answer in answers]
        probabilities = llava.probability(features, ONE_WORD, word).tolist()
        return [Said(*pair) for pair in zip(answers, probabilities)]

    def _draw_now(
        self,
        key: str,
        picture: Image.Image,
        steerings: Sequence[Any],
        word: str,
        seed: int,
        steps: int,
        stop: Callable[[], bool] | None,
    ) -> list[Drawn]:
        """Drawings with each steering and one seed, all in one batch; the first is what others are compared with."""
        loaded = self._find(key)
        unclip, judge = loaded.unclip, loaded.judge
        embeddings = unclip.image_embeds([picture] * len(steerings), steerings)
        guidance = loaded.pack.info["scores"].get("steerability", {}).get("guidance", GUIDANCE)
        pictures = unclip.draw(embeddings, [seed] * len(steerings), steps, guidance, stop)
        if judge is None:
            return [Drawn(one, None, None) for one in pictures]
        seen = judge.embed_images(pictures)
        like_original = (seen @ seen[0]).tolist()
        like_concept = (seen @ judge.embed_texts([word])[0]).tolist() if word else [None] * len(pictures)
        return [Drawn(*parts) for parts in zip(pictures, like_concept, like_original)]


def on_gpu(function: Callable[..., Any], seconds: Callable[..., int]) -> Callable[..., Any]:
    """The function, on a GPU that Spaces lends for about as long as ``seconds`` of the same arguments says.

    Elsewhere, the function itself. A borrowed GPU is in another process: nobody can be asked there whether to stop.
    """
    try:
        from spaces import GPU
    except ImportError:
        return function
    lent = GPU(duration=seconds)(function)
    return (lambda *arguments: lent(*arguments[:-1], None)) if os.environ.get(ZERO_GPU) else lent


def _hash(picture: Image.Image) -> str:
    return sha256(f"{picture.size}", picture.tobytes())
