import pytest
import torch
from torch.nn.functional import normalize

from cbsae_hub.trainers.sae.optimizer import DictionaryAdam
from cbsae_hub.trainers.sae.step import store_by_neuron_


@pytest.mark.parametrize("scale", [0.01, 100.0])  # below and above the norm that is clipped to
def test_step_is_removal_clipping_adam_and_normalisation(make_sae, scale):
    sae, reference = make_sae(), make_sae()
    store_by_neuron_(sae)
    optimizer = DictionaryAdam(sae, betas=(0.8, 0.9), max_grad_norm=0.7)
    expected = torch.optim.Adam(reference.parameters(), lr=0.01, betas=(0.8, 0.9), foreach=False)
    optimizer.set_lr(0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for (name, parameter), other in zip(sae.named_parameters(), reference.parameters()):
            gradient = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.T.contiguous().T if name == "W_enc" else gradient.clone()
            other.grad = gradient
        with torch.no_grad():
            rows = normalize(reference.W_dec, dim=1)
            reference.W_dec.grad -= (reference.W_dec.grad * rows).sum(1, keepdim=True) * rows
        expected_norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.7)
        expected.step()
        with torch.no_grad():
            reference.W_dec.copy_(normalize(reference.W_dec, dim=1))
        norm = optimizer.step()
        torch.testing.assert_close(norm, expected_norm)
        # The fused kernel scales gradients by a float32.
        for (name, parameter), other in zip(sae.named_parameters(), reference.parameters()):
            torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-9, msg=name)
    assert sae.W_enc.data_ptr() == optimizer.encoder_rows.data_ptr()
