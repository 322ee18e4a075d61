"""Distributions over a vocabulary and their scores, compared with CLIP run whole and formulas written out."""

import math

import numpy as np
import pytest
import torch
from steerable_models import (
    blocks_by_hand,
    cbsae_for,
    clip,
    edited_by_hand,
    image_processor,
    pictures,
    sae_for,
    tokenizer,
)
from torch.testing import assert_close

from cbsae_hub.encoders.site import EditError
from cbsae_hub.metrics.zero_shot_steering import Effect, ZeroShotScores
from cbsae_hub.steering import ClipZeroShotSteerer, DiffMean, Edit, Steering
from cbsae_hub.steering.latents import RawNeurons

WORDS = ["pizza", "dog", "red", "a left hand", "night", "q"]


def make(layer=2, sae=None, double=False, **options):
    model, sae = clip(), sae_for(layer=layer) if sae is None else sae
    if double:
        model, sae = model.double(), sae.double()
    return ClipZeroShotSteerer(model, image_processor(), tokenizer(16), sae, WORDS, **options)


@torch.no_grad()
def probabilities_by_hand(steerer, image, edits=None, template="{}", **options):
    """CLIP's own forward pass on one image and one word at a time, or with its blocks run by hand if steered."""
    model = steerer.model
    pixels = image_processor()(images=[image], return_tensors="pt").pixel_values.to(model.dtype)
    if edits is None:
        return torch.cat(
            [
                model(**tokenizer(16)(template.format(word), return_tensors="pt"), pixel_values=pixels).logits_per_image
                for word in WORDS
            ],
            1,
        ).softmax(-1)[0]
    tower, layer = model.vision_model, steerer.tower.layer
    stream = blocks_by_hand(tower.encoder.layers[: layer + 1], tower.pre_layrnorm(tower.embeddings(pixels)))
    stream = edited_by_hand(steerer.tower.sae, stream[0], edits, **options)[None]
    stream = blocks_by_hand(tower.encoder.layers[layer + 1 :], stream)
    image_embedding = model.visual_projection(tower.post_layernorm(stream[:, 0]))[0]
    cosines = []
    for word in WORDS:
        text = model.get_text_features(**tokenizer(16)(word, return_tensors="pt")).pooler_output[0]
        cosines.append(torch.nn.functional.cosine_similarity(text, image_embedding, dim=0))
    return (model.logit_scale.exp() * torch.stack(cosines)).softmax(-1)


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("options", [{}, {"isolate": True}, {"keep_error": True}])
def test_effect_is_before_and_after(layer, options):
    steerer, images, edits = make(layer), pictures(3), [(3, 9.0, "set"), (8, 2.0, "add")]
    effect = steerer.effect(images, Steering([Edit(*edit) for edit in edits], **options), batch=2)
    assert_close(effect.before, torch.stack([probabilities_by_hand(steerer, image) for image in images]))
    after = [probabilities_by_hand(steerer, image, edits, **options) for image in images]
    assert_close(effect.after, torch.stack(after), atol=1e-5, rtol=1e-4)
    difference = (effect.after - effect.before).double().numpy()
    assert effect.s_f == pytest.approx((difference**2).mean(0).sum(), rel=1e-5)
    assert effect.total_variation == pytest.approx(np.abs(difference.mean(0)).sum() / 2, rel=1e-4)
    np.testing.assert_allclose(effect.delta_p, difference.mean(0), atol=1e-6)
    assert effect.s_f > 1e-4


def test_words_that_are_cut_or_the_same_are_named(caplog):
    words = ["red" * 6 + "a", "red" * 6 + "b", "red"]
    steerer = ClipZeroShotSteerer(clip(), image_processor(), tokenizer(16), sae_for(), words)
    assert_close(steerer.texts[0], steerer.texts[1])
    assert "the text tower reads the first 16 tokens of a text: 2 of 3 are longer" in caplog.messages[0]
    assert "does not tell apart 2 of 3 texts" in caplog.messages[1]


def test_template_is_put_around_the_words():
    steerer = make(template="my {}")
    before = steerer.effect(pictures(1), Steering([Edit(3, 9.0)])).before[0]
    assert_close(before, probabilities_by_hand(steerer, pictures(1)[0], template="my {}"))


def test_a_steering_per_image_and_other_kinds():
    steerer, images = make(), pictures(2)
    steerings = [Steering([Edit(3, 9.0)], isolate=True), DiffMean(torch.arange(16.0), 5.0)]
    effect = steerer.effect(images, steerings)
    for place in range(2):
        assert_close(effect.after[place], steerer.effect(images[place : place + 1], steerings[place]).after[0])


def test_s_f_of_a_move_to_n_words_is_one_over_n():
    before = torch.zeros(4, 1000)
    before[:, 500:] = 1 / 500
    for n in (1, 2, 5):
        after = torch.zeros(4, 1000)
        after[:, :n] = 1 / n
        assert Effect(before, after).s_f == pytest.approx(1 / n + 1 / 500, rel=1e-5)
        assert Effect(before, after).total_variation == pytest.approx(1)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize(("model", "count"), [(sae_for, 32), (RawNeurons, 16), (cbsae_for, 36)])
def test_scores_of_many_neurons_equal_the_effect_of_each(layer, model, count):
    steerer, images = make(layer, model(16, layer)), pictures(3)
    neurons = [3, 0, 7, count - 1]  # the last one: of a bottleneck, a concept
    scores = steerer.scores(images, neurons, strength=20.0, batch=8)
    means = steerer.texts.mean(0)
    for place, neuron in enumerate(neurons):
        effect = steerer.effect(images, Steering([Edit(neuron, 20.0)], keep_error=True))
        assert scores.s_f[place].item() == pytest.approx(effect.s_f, rel=1e-3, abs=1e-6)
        assert scores.total_variation[place].item() == pytest.approx(effect.total_variation, rel=1e-3, abs=1e-6)
        assert scores.largest_delta[place].item() == pytest.approx(effect.delta_p.abs().max().item(), rel=1e-3)
        assert scores.concept[place] == effect.delta_p.argmax()
        distances = [float(effect.after.mean(0)[v] * (steerer.texts[v] - means).norm()) for v in range(len(WORDS))]
        assert scores.distance[place].item() == pytest.approx(sum(distances), rel=1e-4)
    assert scores.neurons.tolist() == neurons and scores.strength == 20.0
    every = steerer.scores(images, strength=20.0)
    assert len(every.neurons) == count
    assert_close(every.s_f[neurons], scores.s_f, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("model", [sae_for, cbsae_for])
def test_the_asymptote_is_what_large_strengths_tend_to(layer, model):
    steerer, images = make(layer, model(16, layer), double=True), pictures(3)
    limit = steerer.asymptote(images, batch=10)
    far = steerer.scores(images, strength=1e9)
    for name in ("s_f", "total_variation", "largest_delta", "distance"):
        assert_close(getattr(limit, name), getattr(far, name), atol=1e-5, rtol=1e-4)
    assert torch.equal(limit.concept, far.concept)
    assert math.isinf(limit.strength) and limit.s_f.max() > 0.01


def test_a_sweep_ends_at_the_asymptote():
    steerer, images = make(), pictures(2)
    sweep = steerer.sweep(images, [1, 2, 3], strengths=[0.0, 10.0, 1e5])
    assert [scores.strength for scores in sweep] == [0.0, 10.0, 1e5, math.inf]
    assert_close(sweep[1].s_f, steerer.scores(images, [1, 2, 3], 10.0).s_f)
    gaps = [(scores.s_f - sweep[-1].s_f).abs().max().item() for scores in sweep]
    assert gaps[2] < 1e-3 < gaps[1]


def scores_of(s_f, concept, words=10):
    count = len(s_f)
    blank = torch.zeros(count)
    vocabulary = tuple(f"word {n}" for n in range(words))
    return ZeroShotScores(
        torch.arange(count), 150.0, torch.tensor(s_f), blank, blank, torch.tensor(concept), blank, vocabulary
    )


def test_layer_level_scores():
    scores = scores_of([0.05, 0.2, 0.6, 0.9, 0.7], [1, 2, 3, 3, 4])
    assert scores.layer_s == pytest.approx(0.49)
    assert scores.share_above() == pytest.approx(0.8) and scores.share_above(0.65) == pytest.approx(0.4)
    assert scores.count_above() == 3 and scores.count_above(0.8) == 1
    assert scores.concept_coverage() == pytest.approx(0.2) and scores.concept_coverage(0.1) == pytest.approx(0.3)
    frame = scores.frame()
    assert frame.neuron.tolist() == [3, 4, 2, 1, 0] and frame.concept[0] == "word 3"


def test_steering_what_does_not_reach_the_embedding_is_an_error():
    with pytest.raises(EditError, match="no effect.*of image 0"):
        make(3).effect(pictures(1), Steering([Edit(3, 9.0)], tokens="patches"))
    make(2).effect(pictures(1), Steering([Edit(3, 9.0)], tokens="patches"))


def test_from_pretrained_is_the_saved_model(tmp_path):
    clip().save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    tokenizer(16).save_pretrained(tmp_path)
    loaded = ClipZeroShotSteerer.from_pretrained(tmp_path, sae_for(), WORDS)
    steering = Steering([Edit(3, 9.0)])
    assert_close(loaded.effect(pictures(2), steering).after, make().effect(pictures(2), steering).after)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(template="photo"), "one {} for the word"),
        (lambda: make(layer=9), "layer 9 does not exist"),
        (lambda: make().scores(pictures(1), [32]), "neurons must be some of 0 to 31"),
        (lambda: make().scores(pictures(1), []), "neurons must be"),
        (lambda: make().scores([], [1]), "no images"),
        (lambda: make().effect(pictures(2), [None]), "1 steerings for 2 images"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_more_word_is_one_more_place_in_the_distribution():
    steerer = make()
    more = steerer.with_word("zebra")
    assert more.vocabulary == (*WORDS, "zebra") and steerer.vocabulary == tuple(WORDS)
    assert steerer.with_word("dog") is steerer
    whole = ClipZeroShotSteerer(steerer.model, image_processor(), tokenizer(16), sae_for(), [*WORDS, "zebra"])
    assert_close(more.texts, whole.texts)
