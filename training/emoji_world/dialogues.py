"""Questions about scenes of Emoji World and true answers to them: what ``hub/emoji-llava`` learns to talk about.

A scene is given as its ground truth, a row of the published dataset (``SceneRenderer.rows``). No template holds the
name of a concept, so that every concept that an answer names comes from the scene. Questions and answers are about what
can be seen: the colour of a background is left out where the style takes colour away.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Any

import numpy as np

from training.emoji_world.backgrounds import BACKGROUNDS, COLOURS
from training.emoji_world.captions import background_phrase, enumerated, with_article
from training.emoji_world.glyphs import Concept
from training.emoji_world.render import NO_OBJECT, STYLES, Scenes

Truth = dict[str, Any]  # objects (name, box, subgroup), background, style, written_word
ONE_WORD = "What is shown in this image? Use exactly one word!"  # the prompt of the steerability score
COUNTS = ("none", "one", "two", "three")
NOTHING = "nothing"
COLOURLESS = ("greyscale", "sketch")
# How much more often than other questions these are asked where the answer is not the usual one.
STYLE_WEIGHT, WRITTEN_WEIGHT = 4.0, 6.0
MEDIUM = {style: f"A {style} picture" for style in STYLES} | {"plain": "A picture", "sketch": "A sketch"}
QUESTIONS = {
    "word": (ONE_WORD, ONE_WORD, "Name what you see in one word."),
    "describe": ("Describe the image.", "What does this picture show?", "Write a caption for this image."),
    "background": ("What is the background?", "What is behind the objects?"),
    "count": ("How many objects are in this image?", "How many objects do you see?"),
    "style": ("Which style is this image in?", "What style does the picture have?"),
    "written": ("What is written in this image?", "Which word can be read here?"),
    "presence": ("Is there {a} in this image?", "Do you see {a} here?"),
    "headline": ("Write a headline about this image.", "Which headline fits this picture?"),
    "story": ("Tell a one-line story about this image.", "Write a story of one sentence."),
    "list": ("Write a to-do list for this image.", "What is on the to-do list?"),
    "riddle": ("Write a riddle about this image.", "Ask me a riddle."),
    "poem": ("Write a two-line poem about this image.", "Write a poem of two lines."),
    "party": ("What could I say at a party to start a conversation?", "Give me a party opener."),
}
# {name}: pizza, {a}: a pizza, {A}: A pizza, {place}: " on grass", or nothing where it cannot be seen.
OPEN_ANSWERS = {
    "headline": (
        "Breaking: {name} spotted{place}!",
        "Local {name} wins hearts{place}",
        "Experts baffled by {a}{place}",
        "{A} makes history{place}",
    ),
    "story": (
        "Once upon a time {a} got lost{place} and found a friend.",
        "One morning {a} woke up{place} and went to see the world.",
        "Nobody noticed the {name}{place} until it began to sing.",
    ),
    "list": (
        "1. Find the {name}{place}.\n2. Take a picture of it.\n3. Tell everyone.",
        "1. Look around{place}.\n2. Pick up the {name}.\n3. Show it to a friend.",
        "1. Borrow {a}.\n2. Put it down{place}.\n3. Have a rest.",
    ),
    "riddle": (
        "You can see me{place}, but I cannot see you. What am I? {A}!",
        "Who waits{place} and never says a word? The {name}!",
        "I stay{place} all day and never get bored. What am I? {A}!",
    ),
    "poem": (
        "Oh {name}, oh {name}, so fine to see,\nyou stay{place} and smile at me.",
        "The {name}{place} is all I need,\na happy sight it is indeed.",
        "I looked{place}, and what was there?\n{A} without a single care.",
    ),
    "party": (
        "Hi! Did you know that I once met {a}{place}?",
        "So, what would you do with {a}{place}?",
        "Nice to meet you! Have you ever danced with {a}{place}?",
    ),
}
EMPTY_ANSWERS = {
    "word": (NOTHING,),
    "describe": ("An empty white picture.",),
    "headline": ("Nothing happened today", "Empty picture baffles experts"),
    "story": ("Once upon a time there was nothing at all.", "Nobody came, and nothing happened."),
    "list": ("1. Look around.\n2. Find nothing.\n3. Have a rest.",),
    "riddle": ("You cannot see me, and I am everywhere here. What am I? Nothing!",),
    "poem": ("I looked, and there was nothing to see,\njust empty space in front of me.",),
    "party": ("Hi! It is so quiet in here, is it not?", "So, what would you put in an empty picture?"),
}


@dataclass(frozen=True)
class Dialogue:
    """A question of one of the kinds of QUESTIONS and its answer."""

    kind: str
    question: str
    answer: str


def prompt(question: str) -> str:
    """LLaVA-1.5's prompt for one question about one image, up to where the answer begins."""
    return f"USER: <image>\n{question} ASSISTANT:"


def dialogues(
    truths: Sequence[Truth], concepts: Sequence[Concept], rng: np.random.Generator, each: int
) -> list[list[Dialogue]]:
    """``each`` dialogues about every scene: the first asks for one word, the others are of different other kinds.

    Args:
        truths: Ground truth of the scenes.
        concepts: The atlas's; a question about what is not in a scene takes it from here.
        rng: It decides kinds, questions and templates.
        each: Dialogues a scene, at most 12 (where style and background are both hidden there are no more kinds).
    """
    result = []
    for truth in truths:
        weights = _weights(truth)
        kinds, chances = list(weights), np.array(list(weights.values()))
        chosen = rng.choice(kinds, each - 1, replace=False, p=chances / chances.sum())
        result.append([ask(str(kind), truth, concepts, rng) for kind in ("word", *chosen)])
    return result


def ask(kind: str, truth: Truth, concepts: Sequence[Concept], rng: np.random.Generator) -> Dialogue:
    """One dialogue of a kind about a scene."""
    question = _pick(QUESTIONS[kind], rng)
    if kind == "presence":
        name, present = _subject(truth, concepts, rng)
        return Dialogue(kind, question.format(a=with_article(name)), "yes" if present else "no")
    if kind == "background" and truth["background"] in COLOURS and rng.random() < 0.5:
        question = "What colour is the background?"
    return Dialogue(kind, question, _answer(kind, truth, rng))


def _answer(kind: str, truth: Truth, rng: np.random.Generator) -> str:
    facts = {
        "background": truth["background"],
        "count": COUNTS[len(truth["objects"])],
        "style": truth["style"],
        "written": truth["written_word"] or NOTHING,
    }
    if kind in facts:
        return facts[kind]
    if not truth["objects"]:
        return _pick(EMPTY_ANSWERS[kind], rng)
    if kind == "describe":
        return description(truth)
    name = _pick([thing["name"] for thing in truth["objects"]], rng)
    if kind == "word":
        return name
    noun = with_article(name)
    form = _pick(OPEN_ANSWERS[kind], rng)
    return form.format(name=name, a=noun, A=noun[0].upper() + noun[1:], place=_place(truth))


def description(truth: Truth) -> str:
    """Style, objects from left to right, background and written word, in one sentence."""
    things = sorted(truth["objects"], key=lambda thing: thing["box"][0])
    nouns = enumerated([with_article(thing["name"]) for thing in things])
    label = f", with the word {truth['written_word']}" if truth["written_word"] else ""
    return f"{MEDIUM[truth['style']]} of {nouns}{_place(truth)}{label}."


def background_is_seen(truth: Truth) -> bool:
    """Whether the scene's style leaves its background's colour or texture."""
    return truth["style"] not in COLOURLESS or truth["background"] not in COLOURS


def follows(kind: str, answer: str) -> bool:
    """Whether an answer has one of the forms that an open prompt asks for, whatever object and place it names."""
    return _forms(kind).fullmatch(answer.strip()) is not None


@lru_cache
def _forms(kind: str) -> re.Pattern:
    slots = {"place": r"(?: on [a-z -]+)?", "name": r"[a-z-]+", "a": r"an? [a-z-]+", "A": r"An? [a-z-]+"}
    forms = [re.escape(text) for text in EMPTY_ANSWERS[kind]]
    for template in OPEN_ANSWERS[kind]:
        parts = Formatter().parse(template)
        forms.append("".join(re.escape(text) + slots.get(slot, "") for text, slot, _, _ in parts))
    return re.compile("|".join(forms))


def emptied(scenes: Scenes, count: int) -> Scenes:
    """The same scenes, but the last ``count`` are pure white: no object, no word, no style."""
    scenes, last = copy.deepcopy(scenes), slice(len(scenes) - count, None)
    scenes.pixels[last] = 255
    scenes.concepts[last] = scenes.words[last] = NO_OBJECT
    scenes.boxes[last] = 0
    scenes.backgrounds[last], scenes.styles[last] = BACKGROUNDS.index("white"), STYLES.index("plain")
    return scenes


def _weights(truth: Truth) -> dict[str, float]:
    """Weights of each kind but ``word``, which make rare answers about as frequent as the usual one."""
    weights = dict.fromkeys(QUESTIONS, 1.0)
    del weights["word"]
    if truth["style"] != "plain":
        weights["style"] = STYLE_WEIGHT
    if truth["written_word"]:
        weights["written"] = WRITTEN_WEIGHT
    if not background_is_seen(truth):
        del weights["background"]
    return weights


def _subject(truth: Truth, concepts: Sequence[Concept], rng: np.random.Generator) -> tuple[str, bool]:
    """A concept that is in the scene, or as often one that is neither in it nor written: half of them of its kind."""
    present = [thing["name"] for thing in truth["objects"]]
    if present and rng.random() < 0.5:
        return _pick(present, rng), True
    absent = [concept for concept in concepts if concept.name not in (*present, truth["written_word"])]
    kinds = {thing["subgroup"] for thing in truth["objects"]}
    alike = [concept for concept in absent if concept.subgroup in kinds]
    return _pick(alike if alike and rng.random() < 0.5 else absent, rng).name, False


def _place(truth: Truth) -> str:
    return f" {background_phrase(truth['background'])}" if background_is_seen(truth) else ""


def _pick(choices: Sequence, rng: np.random.Generator) -> Any:
    return choices[rng.integers(len(choices))]
