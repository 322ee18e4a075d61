"""First words of many at once are those of one call of generate for each."""

import pytest
import torch
from steerable_models import llava, pictures, sae_for

from cbsae_hub.metrics.steerability import first_word
from cbsae_hub.scoring.first_words import FirstWords, _has_ended
from cbsae_hub.scoring.single_neurons import SingleNeurons
from cbsae_hub.steering import Edit, LlavaSteerer, Steering

pytestmark = pytest.mark.slow

LIMIT = 12
PROMPT = "What is this?"


@pytest.fixture(scope="module", params=["clip", "clip ends", "dinov2"])
def steerer(request):
    tower, *ends = request.param.split()
    model, processor = llava(tower=tower)
    if ends:  # a letter that is often said ends answers
        model.generation_config.eos_token_id = [
            2,
            *processor.tokenizer("aeiou", return_tensors="pt").input_ids[0].tolist(),
        ]
    return LlavaSteerer(model, processor, sae_for())


@pytest.mark.parametrize("isolate", [True, False])
def test_words_are_those_of_generate(steerer, isolate):
    neurons, image = list(range(32)), pictures(1)
    single = SingleNeurons(steerer.tower.sae, steerer.activations(image)[0], isolate)
    features = steerer.features_of(single.set(neurons, [20.0] * 32))
    answers = steerer.generate(
        image * 32, PROMPT, [Steering([Edit(n, 20.0)], isolate=isolate) for n in neurons], LIMIT, batch=1
    )
    expected = [first_word(answer) for answer in answers]
    assert len(set(expected)) > 5
    for batch in (1, 5, 64):
        assert FirstWords(steerer, PROMPT, LIMIT, batch)(features) == expected


def test_features_of_activations_are_image_features(steerer):
    images = pictures(3)
    torch.testing.assert_close(steerer.features_of(steerer.activations(images)), steerer.image_features(images))


def test_a_word_ends_with_white_space():
    assert [_has_ended(said) for said in ("", " ", "dog", " dog", "dog ", "dog\n", "the dog")] == [
        False, False, False, False, True, True, True]  # fmt: skip


def test_the_image_token_in_a_prompt_is_an_error(steerer):
    with pytest.raises(ValueError, match="image tokens instead of"):
        FirstWords(steerer, "What is <image>?")(torch.zeros(1, 4, 32))
