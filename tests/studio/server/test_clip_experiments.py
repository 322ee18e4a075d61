"""CLIP's answers on the page, against its blocks run by hand; tiny random models."""

from types import SimpleNamespace

import pytest
import torch
from steerable_models import cbsae_for, clip, image_processor, pictures, sae_for, tokenizer
from torch.testing import assert_close

from cbsae_hub.encoders.inspection import Inspection
from cbsae_hub.steering import ClipZeroShotSteerer, Edit, RandomDirection, Steering
from cbsae_hub.studio.server.clip_experiments import BARS, ClipExperiments
from cbsae_hub.studio.server.experiments import FACTORS, Experiment
from cbsae_hub.studio.server.refusal import Refused

WORDS = [f"{letter}1" for letter in "abcdefghijklmno"]


def model_of(sae):
    steerer = ClipZeroShotSteerer(clip(), image_processor(), tokenizer(16), sae, WORDS)

    def inspect(image, of_pack):
        tokens = Inspection.of(sae, steerer.activations([image])[0, 1:])
        return SimpleNamespace(**vars(tokens), grid=(2, 2), before=0, webp=b"picture", ratio=1.0)

    encoder = SimpleNamespace(layer=2, num_layers=4, d_in=16, family=SimpleNamespace(cls_token=True), model=clip())
    return SimpleNamespace(key="tiny", clip=steerer, sae=sae, inspect=inspect, encoder=encoder)


@pytest.fixture(scope="module")
def model():
    sae = sae_for()
    sae.provenance = type(sae.provenance)(**{**vars(sae.provenance), "tokens": "patches"})
    return model_of(sae)


def experiment(model, *edits, word="", **options):
    return Experiment(model, pictures(1)[0], Steering(list(edits), **options), word)


@pytest.mark.parametrize("factor", [0.0, 0.35, 1.0])
def test_bars_are_the_steerers_own_distributions(model, factor):
    one = experiment(model, Edit(3, 9.0), Edit(8, 2.0, "add"), word="b1")
    bars = ClipExperiments().bars(one, factor)
    steered = Steering([Edit(3, 9.0 * factor), Edit(8, 2.0 * factor, "add")])
    expected = {"original": None, "sae": Steering([]), "steered": steered, "random": RandomDirection(steered, 0)}
    assert list(bars.versions) == list(expected)
    places = [WORDS.index(word) for word in bars.words]
    for name, steering in expected.items():
        answer = model.clip.effect([one.image], steering).after[0]
        assert_close(torch.tensor(bars.versions[name]), answer[places])


def test_words_stay_where_they_are_while_the_strength_moves(model):
    one, experiments = experiment(model, Edit(3, 20.0), word="zebra"), ClipExperiments()
    curve = experiments.curve(one)
    assert curve.vocabulary == (*WORDS, "zebra") and len(curve.steered) == len(curve.random) == len(FACTORS)
    more = model.clip.with_word("zebra")
    for factor, answer in zip(FACTORS, curve.steered):
        assert_close(answer, more.effect([one.image], Steering([Edit(3, 20.0 * factor)])).after[0])
    shown = [experiments.bars(one, factor).words for factor in (0.1, 0.9, 1.5)]
    assert shown[0] == shown[1] == shown[2] and len(shown[0]) == BARS and "zebra" in shown[0]
    original = torch.tensor(experiments.bars(one).versions["original"])
    assert (original.diff() <= 0).all(), "the most probable one first"


def test_only_the_blocks_after_the_sae_run_again(model, monkeypatch):
    experiments, passes = ClipExperiments(), []
    see = model.clip._see
    monkeypatch.setattr(model.clip, "_see", lambda images: passes.append(len(images)) or see(images))
    for value in (3.0, 5.0, 7.0):
        experiments.bars(experiment(model, Edit(3, value)), 0.5)
    assert passes == [1]


def test_the_neurons_without_which_the_word_loses_most(model):
    one = experiment(model, Edit(3, 9.0))
    decision = ClipExperiments().decision(one)
    v = model.clip.activations([one.image])
    before = model.clip.distribution(model.clip.embed(v))[0]
    assert decision.word == WORDS[before.argmax()] and decision.probability == pytest.approx(float(before.max()))
    z = model.sae.encode(v[:, 1:])[0]
    lowered = {}
    for neuron in (z > 0).any(0).nonzero()[:, 0].tolist():
        edited = v.clone()
        edited[0, 1:] -= z[:, neuron, None] * model.sae.W_dec[neuron]
        answer = model.clip.distribution(model.clip.embed(edited))[0]
        if answer[before.argmax()] < before.max():
            lowered[neuron] = float(answer[before.argmax()])
    assert decision.neurons and decision.active == (z > 0).any(0).sum()
    expected = sorted(lowered, key=lowered.get)[: len(decision.neurons)]
    assert [one.neuron for one in decision.neurons] == expected
    for found in decision.neurons:
        assert found.probability == pytest.approx(lowered[found.neuron], abs=1e-6)
        strengths = z[:, found.neuron]
        assert_close(torch.from_numpy(found.heat).flatten().float(), strengths / strengths.max())


def test_what_cannot_decide_is_refused(model):
    unread = model_of(cbsae_for(layer=3))
    unread.sae.provenance = type(unread.sae.provenance)(**{**vars(unread.sae.provenance), "tokens": "patches"})
    unread.encoder.layer = 3
    with pytest.raises(Refused, match="^The SAE is of the last block's patches"):
        ClipExperiments().decision(experiment(unread))
    with pytest.raises(Refused, match="^The SAE is of layer 1, the encoder is read at layer 2"):
        ClipExperiments().decision(experiment(model_of(sae_for(layer=1))))
