"""Judges answers about Emoji World by rule: the forms of answers and the names of concepts are known."""

import re

from cbsae_hub.studies.judges import Case, Verdict
from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import background_phrase
from training.emoji_world.dialogues import OPEN_ANSWERS, QUESTIONS, follows

KIND_OF = {question: kind for kind in OPEN_ANSWERS for question in QUESTIONS[kind]}


def judge(case: Case) -> Verdict:
    """The verdict on an answer to one of the open questions.

    A concept appears in an answer if its name stands there as a word or words of its own. Backgrounds do not count:
    "on a brick wall" names no brick.

    The rest is right if the answer has one of the forms that the prompt asks for. For suppression it must also name the
    background still, if the answer before did: only the object is to change. An answer that there is nothing to see
    loses it.

    Raises:
        ValueError: If the prompt is no open question of Emoji World.
    """
    if case.prompt not in KIND_OF:
        raise ValueError(f"{case.prompt!r:.80} is no open question of Emoji World: they are {'; '.join(KIND_OF)}")
    fits = follows(KIND_OF[case.prompt], case.answer)
    appears = _has_words(case.concept, _without_places(case.answer))
    if case.kind == "insertion":
        return Verdict(appears, fits)
    return Verdict(not appears, fits and _places(case.plain) <= _places(case.answer))


def _has_words(words: str, text: str) -> bool:
    """Whether words stand in a text next to each other, and not as parts of longer ones."""
    return re.search(rf"(?<![\w-]){re.escape(words.lower())}(?![\w-])", text.lower()) is not None


def _places(text: str) -> set[str]:
    return {background for background in BACKGROUNDS if _has_words(background_phrase(background), text)}


def _without_places(text: str) -> str:
    for background in BACKGROUNDS:
        text = re.sub(rf"(?<!\w){re.escape(background_phrase(background))}(?!\w)", "", text, flags=re.IGNORECASE)
    return text
