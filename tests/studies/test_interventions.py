"""Neurons that are set and ablated: a witness whose answers are known, and the three models' own answers."""

import numpy as np
import pytest
import torch
from steerable_models import clip, image_processor, llava, pictures, sae_for, tokenizer, unclip

from cbsae_hub.steering import Edit, LlavaSteerer, Steering, UnclipSteerer
from cbsae_hub.steering.clip import ClipZeroShotSteerer
from cbsae_hub.studies.interventions import clip_chooses, intervene, llava_says, unclip_draws
from cbsae_hub.studies.names import says

SHOWN = pictures(12)
NUMBER = {picture.tobytes(): number for number, picture in enumerate(SHOWN)}
IMAGES = [{"image": picture} for picture in SHOWN]
LABELS = np.eye(3, dtype=bool)[np.arange(12) % 3]


class Images(list):
    """A list as a map-style dataset."""

    def __getitem__(self, key):
        return {"image": [row["image"] for row in super().__getitem__(key)]}


def obedient(pictures_, steerings):
    """Shows what is there; neurons 4 and 5 decide on concepts 0 and 1, neuron 6 on all at once."""
    shown = torch.from_numpy(LABELS[[NUMBER[picture.tobytes()] for picture in pictures_]]).clone()
    for row, steering in zip(shown, steerings):
        for edit in steering.edits if steering else ():
            assert edit.op == "set" and steering.keep_error and edit.value in (0.0, 20.0)
            row[slice(None) if edit.neuron == 6 else edit.neuron - 4] = edit.value > 0
    return shown


def test_neurons_that_decide_are_told_from_those_that_do_not():
    images = Images(IMAGES)
    scores = intervene(obedient, images, LABELS, np.ones((12, 3)), [4, 5, 6], 20.0, each=3, batch=5)
    assert scores.sufficiency.tolist() == [1, 1, 1] and scores.necessity.tolist() == [1, 1, 1]
    assert scores.sufficiency_chance.tolist() == [0, 0, 1], "the last one makes everything appear"
    silent = intervene(obedient, images, LABELS, np.zeros((12, 3)), [4, -1, 4], 20.0)
    assert silent.sufficiency.tolist() == [1, 0, 0], "concept 1 has no neuron, concept 2 another's"
    assert silent.necessity.tolist() == [0, 0, 0], "a silent neuron cannot be ablated"
    with pytest.raises(ValueError, match="of the same images and concepts"):
        intervene(obedient, images, LABELS, np.ones((12, 2)), [4, 5, 6])


STEERINGS = [None, Steering([Edit(3, 30.0)], keep_error=True), Steering([Edit(9, 30.0)], keep_error=True)]


def test_clip_shows_the_concept_that_it_finds_most_probable():
    steerer = ClipZeroShotSteerer(clip(), image_processor(), tokenizer(16), sae_for(), ["dog", "cat", "a red car"])
    shown = clip_chooses(steerer)(SHOWN[:3], STEERINGS)
    after = torch.stack([steerer.effect([p], [s]).after[0] for p, s in zip(SHOWN[:3], STEERINGS)])
    assert shown.sum(1).tolist() == [1, 1, 1] and (after[shown] == after.amax(1)).all()


def test_llava_shows_the_concepts_that_its_answer_names():
    steerer = LlavaSteerer(*llava(), sae_for())
    answers = steerer.generate(SHOWN[:3], "what?", STEERINGS, max_new_tokens=6)
    concepts = [answer.strip() or "none" for answer in answers]
    shown = llava_says(steerer, concepts, "what?", max_new_tokens=6)(SHOWN[:3], STEERINGS)
    assert shown.tolist() == [[says(answer, concept) for concept in concepts] for answer in answers]


def test_unclip_shows_what_a_judge_sees_in_its_drawing():
    class Judge:
        def embed_texts(self, texts):
            return torch.eye(3)[: len(texts)]

        def embed_images(self, images):
            return torch.stack([torch.from_numpy(np.asarray(one).mean((0, 1))).float() for one in images])

    steerer = UnclipSteerer(unclip(), sae_for())
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    shown = unclip_draws(steerer, Judge(), ["red", "green", "blue"], **options)(SHOWN[:3], STEERINGS)
    drawings = steerer.generate(SHOWN[:3], STEERINGS, **options)
    assert shown.int().argmax(1).tolist() == [int(np.asarray(one).mean((0, 1)).argmax()) for one in drawings]
