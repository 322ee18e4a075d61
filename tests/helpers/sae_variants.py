"""SAEs of every variant, as fixtures."""

import pytest
import torch

from cbsae_hub import SAE

VARIANTS = {
    "relu": {"activation": "relu"},
    "topk": {"activation": "topk"},
    "batch_topk": {"activation": "batch_topk"},
    "matryoshka": {"activation": "batch_topk", "group_sizes": (4, 12, 32)},
    "batch_topk_vector": {"activation": "batch_topk", "threshold_per_neuron": True},
    "jumprelu": {"activation": "jumprelu", "bandwidth": 0.3},
    "gated": {"activation": "gated"},
}
D_IN, D_SAE, K = 12, 48, 5


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def sae(variant):
    return random_sae(variant)


def random_sae(variant, **settings):
    """An SAE in which every parameter has its own random value, so that none can be left out unnoticed."""
    torch.manual_seed(0)
    sae = SAE(D_IN, D_SAE, k=K, **VARIANTS[variant], **settings)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        if sae.threshold is not None:
            sae.threshold.copy_(0.2 + 0.5 * torch.rand(sae.threshold.shape))
    return sae


@pytest.fixture
def make_sae():
    return random_sae


@pytest.fixture
def x():
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))
