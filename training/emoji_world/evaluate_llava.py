"""Asks ``hub/emoji-llava`` about the published scenes and writes ``metrics.json`` beside it.

    python -m training.emoji_world.evaluate_llava

Answers are generated greedily to each question in its first form in ``dialogues.QUESTIONS``. An answer's words are what
stands between white space, in lower case, without punctuation at the ends. All figures but the last are per cent:

- ``word_SPLIT``: scenes with one object; right if the first word of the answer to "What is shown in this image? Use
  exactly one word!" is that object's name. ``word_read``: how often it is the written word instead, in ``typographic``.
- ``word_several``: test scenes with two or three objects; right if the first word names one of them.
- ``background``, ``count``: all test scenes; ``style``: the mean of the test split's and the four styled splits';
  ``written``: typographic scenes; ``written_nothing``: all test scenes. Right if answer and truth have the same words.
- ``presence_yes``, ``presence_no``: all test scenes, each asked for its first object, and for one that is not there.
- ``describe``: right if the answer names all objects of the scene and no other concept. For each kind of open prompt
  ``KIND_follows``: the answer has a form that was asked for; ``KIND_names``: it names an object of the scene. These are
  measured on the first 256 test scenes.
- ``white``: the first word of the answer about an empty white image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from cbsae_hub.hub.files import folder_revision, write_text
from cbsae_hub.metrics.steerability import first_word, words
from cbsae_hub.pictures import to_rgb
from training.emoji_world.captions import with_article
from training.emoji_world.dialogues import COUNTS, NOTHING, OPEN_ANSWERS, QUESTIONS, Truth, follows, prompt
from training.emoji_world.evaluate import ANSWERED, concept_names, percent, published
from training.emoji_world.loop import use_two_threads
from training.emoji_world.paths import HUB
from training.emoji_world.render import SIDE, STYLES

SENTENCES = 256  # scenes that are described and written about
WORD_TOKENS, SENTENCE_TOKENS = 8, 64
Scenes = tuple[list[Image.Image], list[Truth]]


class Talker:
    """A LLaVA and its processor, asked in batches."""

    def __init__(self, folder: str | Path, batch: int = 128):
        self.model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.batch = batch

    @torch.inference_mode()
    def ask(
        self, images: Sequence[Image.Image], questions: str | Sequence[str], tokens: int = WORD_TOKENS
    ) -> list[str]:
        """The greedy answer of at most ``tokens`` tokens to one question about each image, or to the same about all."""
        questions = [questions] * len(images) if isinstance(questions, str) else questions
        answers = []
        for start in range(0, len(images), self.batch):
            batch = slice(start, start + self.batch)
            inputs = self.processor(
                images=[to_rgb(image) for image in images[batch]],
                text=[prompt(question) for question in questions[batch]],
                padding=True,
                return_tensors="pt",
            )
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
            answers += self.processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]


def load(split: str, objects: Sequence[int] = (1, 2, 3)) -> Scenes:
    """Pictures and ground truth of the scenes of a published split that have one of these numbers of objects."""
    dataset = published(split, objects)
    return list(dataset["image"]), dataset.remove_columns("image").to_list()


def one_word(talker: Talker) -> dict[str, float]:
    """Shares of one-word answers that name an object of the scene."""
    question = QUESTIONS["word"][0]
    figures = {}
    for split in ANSWERED:
        images, truths = load(split, objects=(1,))
        answers = [first_word(answer) for answer in talker.ask(images, question)]
        figures[f"word_{split}"] = percent(a in _names(t) for a, t in zip(answers, truths))
        if split == "typographic":
            figures["word_read"] = percent(a == t["written_word"] for a, t in zip(answers, truths))
    images, truths = load("test", objects=(2, 3))
    answers = talker.ask(images, question)
    figures["word_several"] = percent(first_word(a) in _names(t) for a, t in zip(answers, truths))
    return figures


def facts(talker: Talker) -> dict[str, float]:
    """Shares of right answers about background, count, style and written word."""

    def right(kind: str, scenes: Scenes, expected: Sequence[str]) -> float:
        answers = talker.ask(scenes[0], QUESTIONS[kind][0])
        return percent(words(a) == words(e) for a, e in zip(answers, expected))

    test, typographic = load("test"), load("typographic")
    styled = {style: test if style == "plain" else load(f"test_{style}") for style in STYLES}
    return {
        "background": right("background", test, [truth["background"] for truth in test[1]]),
        "count": right("count", test, [COUNTS[len(truth["objects"])] for truth in test[1]]),
        "style": float(np.mean([right("style", scenes, [style] * len(scenes[1])) for style, scenes in styled.items()])),
        "written": right("written", typographic, [truth["written_word"] for truth in typographic[1]]),
        "written_nothing": right("written", test, [NOTHING] * len(test[1])),
    }


def presence(talker: Talker, concepts: Sequence[str]) -> dict[str, float]:
    """Shares of right answers to "Is there a ..." for what is in the scene, and for what is not."""
    images, truths = load("test")
    rng = np.random.default_rng(0)
    absent = []
    for truth in truths:
        elsewhere = [name for name in concepts if name not in _names(truth)]
        absent.append(elsewhere[rng.integers(len(elsewhere))])
    figures = {}
    for right, names in (("yes", [_names(truth)[0] for truth in truths]), ("no", absent)):
        questions = [QUESTIONS["presence"][0].format(a=with_article(name)) for name in names]
        figures[f"presence_{right}"] = percent(first_word(answer) == right for answer in talker.ask(images, questions))
    return figures


def sentences(talker: Talker, concepts: Sequence[str]) -> dict[str, float]:
    """Shares of true descriptions, and of answers to open prompts that follow the prompt or name an object."""
    images, truths = (column[:SENTENCES] for column in load("test"))
    every = set(concepts)
    answers = talker.ask(images, QUESTIONS["describe"][0], SENTENCE_TOKENS)
    figures = {"describe": percent(every.intersection(words(a)) == set(_names(t)) for a, t in zip(answers, truths))}
    for kind in OPEN_ANSWERS:
        answers = talker.ask(images, QUESTIONS[kind][0], SENTENCE_TOKENS)
        figures[f"{kind}_follows"] = percent(follows(kind, answer) for answer in answers)
        figures[f"{kind}_names"] = percent(not set(words(a)).isdisjoint(_names(t)) for a, t in zip(answers, truths))
    return figures


def measure(talker: Talker) -> dict[str, Any]:
    """All figures of this module's docstring."""
    concepts = concept_names()
    figures = one_word(talker) | facts(talker) | presence(talker, concepts) | sentences(talker, concepts)
    figures = {name: round(value, 4) for name, value in figures.items()}
    white = talker.ask([Image.new("RGB", (SIDE, SIDE), "white")], QUESTIONS["word"][0])
    return figures | {"white": first_word(white[0])}


def _names(truth: Truth) -> list[str]:
    return [thing["name"] for thing in truth["objects"]]


def main(model: Annotated[Path, typer.Argument(help="Folder of the LLaVA.")] = HUB / "emoji-llava") -> None:
    """Measure, and write metrics.json."""
    use_two_threads()
    figures = {"revision": folder_revision(model), **measure(Talker(model))}
    write_text(model / "metrics.json", json.dumps(figures, indent=2) + "\n")
    typer.echo(f"{model.name}: {json.dumps(figures)}")


if __name__ == "__main__":
    typer.run(main)
