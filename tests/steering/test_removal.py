"""Neurons taken out one at a time, against the sum of decoder rows written out and CLIP's blocks run by hand."""

import pytest
import torch
from steerable_models import blocks_by_hand, cbsae_for, clip, image_processor, pictures, sae_for, tokenizer
from torch.testing import assert_close

from cbsae_hub.steering import ClipZeroShotSteerer
from cbsae_hub.steering.removal import remove_each

WORDS = ["pizza", "dog", "red", "a left hand", "night", "q"]
PATCHES = slice(1, None)


def make(sae):
    return ClipZeroShotSteerer(clip(), image_processor(), tokenizer(16), sae, WORDS)


def answer_by_hand(steerer, stream):
    tower = steerer.model.vision_model
    stream = blocks_by_hand(tower.encoder.layers[steerer.tower.layer + 1 :], stream[None])
    image = steerer.model.visual_projection(tower.post_layernorm(stream[:, 0]))[0]
    return (steerer.logit_scale * torch.nn.functional.cosine_similarity(steerer.texts, image, dim=-1)).softmax(-1)


@torch.no_grad()
def test_each_neuron_is_taken_out_of_the_tokens_of_the_sae():
    sae = sae_for()
    steerer = make(sae)
    v = steerer.activations(pictures(1))[0]
    z = sae.encode(v[PATCHES])
    neurons = (z > 0).any(0).nonzero()[:, 0].tolist()
    removals = remove_each(steerer, v, neurons, PATCHES)
    assert_close(removals.before, answer_by_hand(steerer, v))
    assert removals.word == removals.before.argmax() and sorted(removals.neurons.tolist()) == neurons
    lowered = removals.after[:, removals.word]
    assert (lowered.diff() >= 0).all() and lowered[0] < removals.before[removals.word]
    for neuron, after in zip(removals.neurons.tolist(), removals.after):
        edited = v.clone()
        edited[PATCHES] -= z[:, neuron, None] * sae.W_dec[neuron]
        assert_close(after, answer_by_hand(steerer, edited), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_of_many_neurons_those_are_tried_that_the_gradient_points_to():
    sae = sae_for()
    with torch.no_grad():
        sae.W_dec.mul_(1e-3)  # where steps are small, the first order is all there is
    steerer = make(sae)
    v = steerer.activations(pictures(1))[0]
    neurons = (sae.encode(v) > 0).any(0).nonzero()[:, 0].tolist()
    every = remove_each(steerer, v, neurons, slice(None))
    some = remove_each(steerer, v, neurons, slice(None), tried=3, batch=2)
    assert some.neurons.tolist() == every.neurons[:3].tolist()
    assert_close(some.after, every.after[:3])


@torch.no_grad()
def test_concepts_of_a_bottleneck_are_taken_out_before_it_selects():
    cb = cbsae_for()
    steerer = make(cb)
    v = steerer.activations(pictures(1))[0]
    z = cb.encode(v)
    concepts = [cb.d_sae, cb.d_sae + 1, cb.d_sae + 2]
    removals = remove_each(steerer, v, concepts, slice(None), tried=2)
    assert len(removals.neurons) == 2
    for neuron, after in zip(removals.neurons.tolist(), removals.after):
        zeroed = z.clone()
        zeroed[:, neuron] = 0
        edited = v - cb.decode(z) + cb.decode(zeroed)
        assert_close(after, answer_by_hand(steerer, edited), atol=1e-5, rtol=1e-4)


def test_an_image_on_which_nothing_fires_is_an_error():
    steerer = make(sae_for())
    with pytest.raises(ValueError, match="no neuron fires"):
        remove_each(steerer, steerer.activations(pictures(1))[0], [], PATCHES)
