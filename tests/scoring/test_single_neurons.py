"""One neuron at a time against a Steering of one Edit, picture by picture."""

import pytest
import torch
from steerable_models import Bottleneck, cbsae_for, sae_for
from torch.testing import assert_close

from cbsae_hub import SAE
from cbsae_hub.scoring.single_neurons import SingleNeurons
from cbsae_hub.steering import Edit, RandomDirection, Steering, apply

NEURONS, VALUES = [3, 8, 30], [9.0, -5.0, 50.0]
MODELS = {"sae": sae_for, "bottleneck": Bottleneck, "cbsae": cbsae_for}


@pytest.fixture(params=MODELS)
def sae(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


@pytest.fixture
def v():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("isolate", [True, False])
def test_each_neuron_is_set_as_an_edit_sets_it(sae, v, isolate):
    has_concepts = not isinstance(sae, SAE)
    neurons = [35, *NEURONS, 34, 32] if has_concepts else NEURONS  # from 32 on, concepts
    values = [0.1, *VALUES, 4.0, -3.0] if has_concepts else VALUES
    found = SingleNeurons(sae, v, isolate).set(neurons, values)
    for one, neuron, value in zip(found, neurons, values):
        assert_close(
            one, apply(Steering([Edit(neuron, value)], isolate=isolate), v[None], sae)[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("model", [Bottleneck, cbsae_for])
def test_concept_neurons_need_no_others_beside_them(model, v, isolate):
    single = SingleNeurons(model(), v, isolate)
    assert_close(single.set([35, 32], [0.1, 4.0]), single.set([35, 3, 32], [0.1, 1.0, 4.0])[[0, 2]])
    random = single.pushed_randomly([35, 3, 32], [0.1, 1.0, 4.0], seed=7)
    assert_close(single.pushed_randomly([35, 32], [0.1, 4.0], seed=7), random[[0, 2]])


@pytest.mark.parametrize("isolate", [True, False])
def test_controls(sae, v, isolate):
    single = SingleNeurons(sae, v, isolate)
    plain = apply(Steering([], isolate=isolate), v[None], sae)
    assert_close(single.plain, plain, rtol=1e-4, atol=1e-5)
    random = single.pushed_randomly(NEURONS, VALUES, seed=7)
    steered = single.set(NEURONS, VALUES)
    assert_close((random - plain).norm(dim=-1), (steered - plain).norm(dim=-1), rtol=1e-3, atol=1e-3)
    assert_close(single.displacement(NEURONS, VALUES), (steered - plain).norm(dim=-1).mean(1), rtol=1e-3, atol=1e-3)
    for one, neuron, value in zip(random, NEURONS, VALUES):
        control = RandomDirection(Steering([Edit(neuron, value)], isolate=isolate), 7 + neuron)
        assert_close(one, apply(control, v[None], sae)[0], rtol=1e-4, atol=1e-4)
    assert_close(single.pushed_randomly(NEURONS[1:], VALUES[1:], seed=7), random[1:])  # whatever else is scored


def test_isolated_tokens_are_one_vector_in_memory(sae, v):
    assert SingleNeurons(sae, v, isolate=True).set(NEURONS, VALUES).stride(1) == 0
