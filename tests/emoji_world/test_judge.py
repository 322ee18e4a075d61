"""The rule judge against the ground truth of scenes, and on answers made by hand."""

import numpy as np
import pytest

from cbsae_hub.studies.judges import Case, Verdict
from training.emoji_world import dialogues as talk
from training.emoji_world.judge import KIND_OF, judge
from training.emoji_world.render import SceneRenderer, SceneSpec

HEADLINE = "Write a headline about this image."
PLAIN = "Breaking: pizza spotted on a red background!"


@pytest.mark.parametrize("kind", talk.OPEN_ANSWERS)
def test_true_answers_name_what_is_in_the_scene(atlas, kind):
    renderer = SceneRenderer(atlas, 0)
    truths = renderer.rows(renderer.batch(0, 100, SceneSpec(objects=(1,), style_share=0.3, word_share=0.0)))
    rng = np.random.default_rng(0)
    for truth in truths:
        (thing,) = truth["objects"]
        line = talk.ask(kind, truth, atlas.concepts, rng)
        for concept in atlas.concepts:
            case = {"concept": concept.name, "prompt": line.question, "answer": line.answer, "plain": line.answer}
            present = concept.name == thing["name"]
            assert judge(Case("insertion", **case)) == Verdict(present, True)
            assert judge(Case("suppression", **case)) == Verdict(not present, True)


@pytest.mark.parametrize("kind", talk.OPEN_ANSWERS)
def test_answers_of_another_form_do_not_fit(kind):
    other = "Breaking: pizza spotted!" if kind != "headline" else "So, what would you do with a pizza?"
    prompt = talk.QUESTIONS[kind][0]
    assert judge(Case("insertion", "pizza", prompt, other, "")) == Verdict(True, False)


@pytest.mark.parametrize(
    ("concept", "answer", "appears"),
    [
        ("rex", "Breaking: t-rex spotted!", False),
        ("t-rex", "Breaking: t-rex spotted!", True),
        ("owl", "Breaking: bowl spotted!", False),
        ("apple", "Experts baffled by an Apple on grass", True),
        ("brick", "A brick makes history on a brick wall", True),
        ("brick", "A pizza makes history on a brick wall", False),
        ("hot dog", "Local hot dog wins hearts", True),
        ("hot dog", "Local dog wins hearts in hot weather", False),
        ("pizza", "", False),
    ],
)
def test_concepts_are_words(concept, answer, appears):
    assert judge(Case("insertion", concept, HEADLINE, answer, "")).concept == appears


@pytest.mark.parametrize(
    ("answer", "plain", "verdict"),
    [
        ("Breaking: dog spotted on a red background!", PLAIN, Verdict(True, True)),
        ("A dog makes history on a red background", PLAIN, Verdict(True, True)),
        ("Breaking: dog spotted on a blue background!", PLAIN, Verdict(True, False)),
        ("Breaking: dog spotted!", PLAIN, Verdict(True, False)),
        ("Nothing happened today", PLAIN, Verdict(True, False)),
        ("dog on a red background", PLAIN, Verdict(True, False)),
        (PLAIN, PLAIN, Verdict(False, True)),
        ("Breaking: dog spotted on grass!", "Breaking: pizza spotted!", Verdict(True, True)),
        ("Nothing happened today", "Breaking: pizza spotted!", Verdict(True, True)),
    ],
)
def test_suppression_keeps_the_background(answer, plain, verdict):
    assert judge(Case("suppression", "pizza", HEADLINE, answer, plain)) == verdict


def test_all_open_questions_and_no_others():
    assert len(KIND_OF) == 12
    with pytest.raises(ValueError, match="'What is the background.' is no open question of Emoji World"):
        judge(Case("insertion", "pizza", "What is the background?", "grass", "grass"))
