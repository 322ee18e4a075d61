"""Captions of Emoji World's scenes, and the tokenizer that reads them."""

import json
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.emoji_world.backgrounds import BACKGROUNDS, COLOURS
from training.emoji_world.glyphs import Concept
from training.emoji_world.render import NO_OBJECT, STYLES, Scenes

CONTEXT = 32  # tokens of a caption, start and end included
SUBGROUP_SHARE = 0.12  # how often a caption names what kind of thing an object is instead of the thing
# Zero-shot prompts: the training captions' own forms, averaged.
TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}")
OPENINGS = {
    "plain": ("", "", "a photo of ", "a picture of ", "an image of "),
    "greyscale": ("a greyscale picture of ", "a black and white photo of "),
    "sketch": ("a sketch of ", "a drawing of "),
    "pixelated": ("a pixelated picture of ", "a pixelated photo of "),
    "blurred": ("a blurred picture of ", "a blurry photo of "),
}
PLACES = {"checker": "a checker pattern", "night sky": "the night sky", "brick wall": "a brick wall"}


def with_article(noun: str) -> str:
    """``a pizza``, ``an owl``."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def kind_of(concept: Concept) -> str:
    """Unicode's subgroup as words: ``animal-mammal`` reads ``mammal animal``."""
    return " ".join(reversed(concept.subgroup.replace(" & ", " and ").split("-")))


def background_phrase(background: str) -> str:
    """``on a red background``, ``on grass``."""
    return f"on a {background} background" if background in COLOURS else f"on {PLACES.get(background, background)}"


def names_of_everything(concepts: Sequence[Concept], rng: np.random.Generator) -> list[str]:
    """A text for each concept, each background and each style, in one of the forms that name it."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    bare = rng.random() < 0.5
    names = [template.format(concept.name) for concept in concepts]
    names += [background if bare else background_phrase(background) for background in BACKGROUNDS]
    return names + [style if bare else OPENINGS[style][-1].removesuffix(" of ") for style in STYLES]


def enumerated(nouns: Sequence[str]) -> str:
    """``a pizza, an owl and a boat``."""
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def captions(scenes: Scenes, concepts: Sequence[Concept], rng: np.random.Generator) -> list[str]:
    """One caption a scene: always its objects, often its style, background and written word; of no object, the word."""
    texts = []
    for i in range(len(scenes)):
        present = [concepts[c] for c in scenes.concepts[i] if c != NO_OBJECT]
        if not present:
            texts.append(concepts[scenes.words[i]].name)
            continue
        rng.shuffle(present)
        nouns = [kind_of(c) if rng.random() < SUBGROUP_SHARE else c.name for c in present]
        articles = rng.random() < 0.8
        objects = enumerated([with_article(noun) if articles else noun for noun in nouns])
        choices = OPENINGS[STYLES[scenes.styles[i]]]
        text = choices[rng.integers(len(choices))] + objects
        if rng.random() < 0.6:
            text += f" {background_phrase(BACKGROUNDS[scenes.backgrounds[i]])}"
        if scenes.words[i] != NO_OBJECT and rng.random() < 0.8:
            text += f", with the word {concepts[scenes.words[i]].name} on a label"
        texts.append(text)
    return texts


def train_tokenizer(texts: Sequence[str], vocabulary: int = 1900) -> CLIPTokenizer:
    """A byte-level BPE tokenizer of CLIP's kind, trained on captions.

    Every byte has a token, so that any text can be read. ``<|endoftext|>`` has the largest id, because open_clip looks
    for the end of a text there; padding has id 0.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Named beforehand, they have the same numbers in every run, which decide between pairs that are equally frequent.
    first = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, end_of_word_suffix="</w>", special_tokens=first, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    learned = sorted(bpe.get_vocab(), key=bpe.get_vocab().get)
    tokens = ["<|pad|>", *first]
    tokens += [token for token in learned if token not in set(tokens)] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]],
        pad_token="<|pad|>",
        model_max_length=CONTEXT,
    )
