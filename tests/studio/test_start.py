"""Worked examples say what was measured, and lead to where it can be seen again."""

from cbsae_hub.steering.first_words import ONE_WORD
from cbsae_hub.studio.experiments import Intervention
from cbsae_hub.studio.links import read, texts
from cbsae_hub.studio.start import cards, examples


def test_examples_of_answers_are_what_llava_says(serving, shipped):
    seen = 0
    for key in serving.models:
        loaded = serving.of(key)
        for example in examples(loaded):
            if example.link.tab != "llava" or len(example.link.basket.items) != 1:
                continue
            picture = serving.pictures.get(example.link.picture, loaded.pack)
            how = Intervention(example.link.basket.edits)
            asked = serving.experiments.ask(loaded, picture, ONE_WORD, how, "")
            assert f"“{asked.steered.answer}”" in example.expect, example.title
            seen += 1
    assert seen >= 5


def test_every_example_is_a_link_to_something_that_is_there(serving):
    for key in serving.models:
        loaded = serving.of(key)
        titles = [example.title for example in examples(loaded)]
        assert len(set(titles)) == len(titles) >= 4
        for example in examples(loaded):
            assert read(texts(example.link), loaded) == (example.link, [])
            assert example.link.tab and f">{example.title}<" in cards(loaded)


def test_what_is_lacking_is_not_in_the_model_and_can_be_added(serving, shipped):
    lacking = next(example for example in examples(shipped) if example.title == "A concept that it lacks")
    assert shipped.pack.find(lacking.link.query).verdict != "strong"
    assert lacking.link.query in shipped.pack.vocabulary, "the pictures show it"
    assert "A concept that it lacks" not in [example.title for example in examples(serving.of("emoji-sae"))]
