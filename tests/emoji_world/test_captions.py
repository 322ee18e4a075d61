import numpy as np

from training.emoji_world.backgrounds import BACKGROUNDS
from training.emoji_world.captions import (
    CONTEXT,
    background_phrase,
    captions,
    kind_of,
    names_of_everything,
    train_tokenizer,
    with_article,
)
from training.emoji_world.render import NO_OBJECT, STYLES, SceneRenderer, SceneSpec


def test_captions_tell_the_truth(atlas):
    scenes = SceneRenderer(atlas, 0).batch(0, 400, SceneSpec(style_share=0.4, word_share=0.4))
    texts = captions(scenes, atlas.concepts, np.random.default_rng(0))
    names = {concept.name for concept in atlas.concepts}
    hits = 0
    for i, text in enumerate(texts):
        words = text.replace(",", " ").split()
        present = {atlas.concepts[c].name for c in scenes.concepts[i] if c != NO_OBJECT}
        written = set() if scenes.words[i] == NO_OBJECT else {atlas.concepts[scenes.words[i]].name}
        before_label = text.split(", with the word ")[0].replace(",", " ").split()
        assert (names & set(before_label)) <= present
        assert (names & set(words)) <= present | written
        assert sum(noun in present or noun == "thing" for noun in before_label) == len(present)
        assert ("sketch" in text or "drawing" in text) == (STYLES[scenes.styles[i]] == "sketch")
        background = BACKGROUNDS[scenes.backgrounds[i]]
        others = {f" {background_phrase(b)}" for b in BACKGROUNDS if b != background}
        assert not any(text.endswith(phrase) for phrase in others)
        hits += text.split(",")[0].endswith(background_phrase(background)) or background_phrase(background) in text
    assert 0.5 < hits / len(texts) < 0.7


def test_article_and_kind(atlas):
    assert with_article("owl") == "an owl"
    assert with_article("pizza") == "a pizza"
    assert kind_of(atlas.concepts[0]) == "small thing"


def test_tokenizer_reads_any_text_and_ends_with_the_largest_id(atlas):
    rng = np.random.default_rng(0)
    corpus = [*names_of_everything(atlas.concepts, rng), "a photo of a pizza and an owl on grass"] * 3
    tokenizer = train_tokenizer(corpus)
    ids = tokenizer(["Ein Ünwort: 猫 !?", "a pizza on grass"], padding=True).input_ids
    assert tokenizer.pad_token_id == 0
    assert all(max(row) == row[[*row, tokenizer.eos_token_id].index(tokenizer.eos_token_id)] for row in ids)
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.unk_token_id not in ids[0][1 : ids[0].index(tokenizer.eos_token_id)]
    assert tokenizer.decode(ids[1], skip_special_tokens=True).strip() == "a pizza on grass"
    assert len(tokenizer("pizza").input_ids) == 3
    assert tokenizer.model_max_length == CONTEXT


def test_the_same_texts_give_the_same_tokenizer_every_time():
    places = "grass", "sand", "brick"
    texts = [f"a {name} on {place}" for name in ("pizza", "owl", "boat", "tram") for place in places]
    first, *others = (train_tokenizer(texts, vocabulary=560) for _ in range(6))
    for other in others:
        assert other.get_vocab() == first.get_vocab()
        assert other("a boat and a tram").input_ids == first("a boat and a tram").input_ids
