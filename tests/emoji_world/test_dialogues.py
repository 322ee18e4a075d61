import re
from itertools import chain

import numpy as np
import pytest

from training.emoji_world import dialogues as talk
from training.emoji_world.backgrounds import BACKGROUNDS, COLOURS
from training.emoji_world.captions import background_phrase
from training.emoji_world.paths import HUB
from training.emoji_world.render import SceneRenderer, SceneSpec

SPEC = SceneSpec(objects=(1, 2, 3), style_share=0.5, word_share=0.4)
EMPTY = 40


@pytest.fixture(scope="module")
def talks(atlas):
    """Ground truth of 600 scenes, the last 40 of them empty, and eight dialogues about each."""
    renderer = SceneRenderer(atlas, 0)
    scenes = talk.emptied(renderer.batch(0, 600, SPEC), EMPTY)
    truths = renderer.rows(scenes)
    return truths, talk.dialogues(truths, atlas.concepts, np.random.default_rng(0), 8)


def _of_kind(talks, kind):
    matches = [(truth, line) for truth, row in zip(*talks) for line in row if line.kind == kind]
    assert len(matches) > 100
    return matches


def _present(truth):
    return [thing["name"] for thing in truth["objects"]]


def _spoken(text):
    return re.findall(r"[a-z]+", text.lower())


def _place(truth):
    """The words of an answer about the background, by the rule in the module's docstring."""
    hidden = truth["style"] in ("greyscale", "sketch") and truth["background"] in COLOURS
    return "" if hidden else " " + background_phrase(truth["background"])


def test_every_scene_is_asked_for_one_word_and_then_other_kinds(talks):
    for row in talks[1]:
        assert len(row) == 8 and row[0].kind == "word"
        assert len({line.kind for line in row}) == 8
    assert {line.kind for row in talks[1] for line in row} == set(talk.QUESTIONS)


def test_one_word_names_an_object(talks):
    for truth, line in _of_kind(talks, "word"):
        assert line.answer in (_present(truth) or ["nothing"])
    several = [(t, line) for t, line in _of_kind(talks, "word") if len(t["objects"]) == 3]
    first = np.mean([line.answer == _present(t)[0] for t, line in several])
    assert 0.2 < first < 0.47  # any of the three
    assert sum(line.question == talk.ONE_WORD for _, line in _of_kind(talks, "word")) > 300


def test_facts_are_those_of_the_scene(talks):
    for truth, line in _of_kind(talks, "count"):
        assert line.answer == {0: "none", 1: "one", 2: "two", 3: "three"}[len(truth["objects"])]
    for truth, line in _of_kind(talks, "style"):
        assert line.answer == truth["style"]
    for truth, line in _of_kind(talks, "written"):
        assert line.answer == (truth["written_word"] or "nothing")
    for truth, line in _of_kind(talks, "background"):
        assert line.answer == truth["background"]
        assert _place(truth)
        assert "colour" not in line.question or truth["background"] in COLOURS


def test_rare_answers_are_about_as_frequent_as_the_usual_one(atlas):
    renderer = SceneRenderer(atlas, 1)
    truths = renderer.rows(renderer.batch(0, 2000, SceneSpec(style_share=0.2, word_share=0.12)))
    lines = list(chain(*talk.dialogues(truths, atlas.concepts, np.random.default_rng(1), 3)))
    plain = np.mean([line.answer == "plain" for line in lines if line.kind == "style"])
    silent = np.mean([line.answer == "nothing" for line in lines if line.kind == "written"])
    assert 0.4 < plain < 0.62 and 0.4 < silent < 0.67


def test_presence_is_true_and_balanced(talks, atlas):
    names = {concept.name for concept in atlas.concepts}
    yes = []
    for truth, line in _of_kind(talks, "presence"):
        (subject,) = names.intersection(_spoken(line.question))
        assert line.answer == ("yes" if subject in _present(truth) else "no")
        assert subject != truth["written_word"]
        if truth["objects"]:
            yes.append(line.answer == "yes")
    assert abs(np.mean(yes) - 0.5) < 0.1


def test_descriptions_tell_everything_that_can_be_seen_in_order(talks, atlas):
    names = {concept.name for concept in atlas.concepts}
    medium = {"A picture": "plain", "A sketch": "sketch"}
    for truth, line in _of_kind(talks, "describe"):
        if not truth["objects"]:
            assert line.answer == "An empty white picture."
            continue
        before, _, written = line.answer.removesuffix(".").partition(", with the word ")
        assert (written or None) == truth["written_word"]
        kind, _, rest = before.partition(" of ")
        assert medium.get(kind, kind.split()[1]) == truth["style"]
        edges = {thing["name"]: thing["box"][0] for thing in truth["objects"]}
        spoken = [word for word in _spoken(rest) if word in names]
        assert sorted(spoken) == sorted(edges)
        assert [edges[word] for word in spoken] == sorted(edges.values())
        assert rest.endswith(_place(truth))
        assert _place(truth) or " on " not in rest


@pytest.mark.parametrize("kind", talk.OPEN_ANSWERS)
def test_open_answers_follow_the_prompt_and_name_one_object_and_the_place(talks, atlas, kind):
    names = {concept.name for concept in atlas.concepts}
    for truth, line in _of_kind(talks, kind):
        assert [other for other in talk.OPEN_ANSWERS if talk.follows(other, line.answer)] == [kind]
        mentioned = names.intersection(_spoken(line.answer))
        if not truth["objects"]:
            assert not mentioned
            continue
        assert len(mentioned) == 1 and mentioned <= set(_present(truth))
        places = {b for b in BACKGROUNDS if f" {background_phrase(b)}" in line.answer}
        assert places == ({truth["background"]} if _place(truth) else set())
        assert "{" not in line.answer
    assert not talk.follows(kind, "pizza") and not talk.follows(kind, "")


def test_no_template_names_a_concept():
    concepts = (HUB / "emoji-images" / "concepts.txt").read_text().splitlines()[: -len(BACKGROUNDS)]
    texts = chain(*talk.QUESTIONS.values(), *talk.OPEN_ANSWERS.values(), *talk.EMPTY_ANSWERS.values())
    for text in (*texts, *talk.MEDIUM.values(), *talk.COUNTS, ", with the word", talk.prompt("")):
        assert not set(concepts).intersection(re.findall(r"[a-z-]+", re.sub(r"\{\w+\}", "", text).lower())), text


def test_the_generator_decides_everything(talks, atlas):
    truths, lines = talks
    assert talk.dialogues(truths, atlas.concepts, np.random.default_rng(0), 8) == lines
    assert talk.dialogues(truths, atlas.concepts, np.random.default_rng(1), 8) != lines


def test_emptied_scenes_are_white_and_the_others_stay(atlas):
    scenes = SceneRenderer(atlas, 2).batch(0, 6, SPEC)
    before = scenes.pixels.clone()
    emptied = talk.emptied(scenes, 2)
    assert (emptied.pixels[4:] == 255).all()
    assert (emptied.pixels[:4] == before[:4]).all() and (scenes.pixels == before).all()
    truths = SceneRenderer(atlas, 2).rows(emptied)
    assert truths[:4] == SceneRenderer(atlas, 2).rows(scenes)[:4]
    blank = {"objects": [], "background": "white", "style": "plain", "written_word": None}
    assert truths[4:] == [blank, blank]


def test_prompt_is_that_of_llava():
    assert talk.prompt("Why?") == "USER: <image>\nWhy? ASSISTANT:"
