"""What is put in the place of an SAE."""

import pytest
import torch
from torch.testing import assert_close

from cbsae_hub.steering import Edit, Steering, apply
from cbsae_hub.steering.latents import RawNeurons, decoder_rows


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_one_coordinate_is_set_and_the_others_stay(seed):
    raw, v = RawNeurons(16, 2, seed), torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(7))
    rows = decoder_rows(raw, range(16))
    assert_close(rows @ rows.T, torch.eye(16), atol=1e-5, rtol=0)
    if seed is None:
        assert torch.equal(rows, torch.eye(16))
    steered = apply(Steering([Edit(5, 8.0)]), v, raw)
    for row in range(16):
        expected = torch.full((3, 5), 8.0) if row == 5 else v @ rows[row]
        assert_close(steered @ rows[row], expected, atol=1e-4, rtol=1e-4)


def test_random_directions_are_repeated_by_their_seed_and_favour_none():
    assert torch.equal(RawNeurons(8, 0, 3).W_dec, RawNeurons(8, 0, 3).W_dec)
    assert not torch.equal(RawNeurons(8, 0, 3).W_dec, RawNeurons(8, 0, 4).W_dec)
    rows = torch.stack([RawNeurons(3, 0, seed).W_dec for seed in range(2000)])
    assert rows.mean(0).abs().max() < 0.06, "the mean of uniform directions is 0, with a deviation of 1/sqrt(3 * 2000)"
    assert_close(rows.square().mean(0), torch.full((3, 3), 1 / 3), atol=0.04, rtol=0)
