import pytest
import torch

from cbsae_hub import SAE
from cbsae_hub.trainers.run import Processes
from cbsae_hub.trainers.sae.step import Selector


def selector(k=3, activation="batch_topk", width=40):
    return Selector(SAE(4, width, activation, k), Processes())


def brute_force(hidden, k):
    """Positions of the k * n largest positive entries; of equal ones the first."""
    flat = hidden.flatten()
    order = flat.argsort(descending=True, stable=True)[: k * len(hidden)]
    return order[flat[order] > 0].sort().values


@pytest.mark.parametrize("width", [40, 37])
def test_equals_a_full_sort_while_the_distribution_moves(width):
    select = selector(width=width)
    generator = torch.Generator().manual_seed(0)
    # Up and down by much more than the margin: sometimes last batch's bound is far too low, sometimes too high.
    for scale in (1.0, 1.02, 5.0, 0.1, 0.1, 1e-6, 3.0):
        hidden = scale * torch.randn(25, width, generator=generator)
        positions, values = select.select(hidden)
        assert torch.equal(positions, brute_force(hidden, 3))
        assert torch.equal(values, hidden.flatten()[positions])
        assert select.smallest == values.min().item()


def test_equal_values_are_kept_from_the_front_up_to_the_count():
    select = selector(k=2, width=8)
    hidden = torch.ones(3, 8)
    hidden[1, 3] = 2
    for _ in range(2):
        positions, _ = select.select(hidden)
        assert torch.equal(positions, brute_force(hidden, 2))


def test_nothing_but_positive_latents_is_selected():
    select = selector()
    hidden = -torch.ones(5, 40)
    positions, values = select.select(hidden)
    assert len(positions) == len(values) == 0 and select.smallest == 0
    hidden[2, 7] = 0.5
    assert select.select(hidden)[0].tolist() == [2 * 40 + 7]


@pytest.mark.parametrize(("width", "k"), [(40, 3), (64, 3), (64, 10), (5, 9)])
def test_topk_selects_for_each_token(width, k):
    hidden = torch.randn(30, width, generator=torch.Generator().manual_seed(1))
    hidden[3] = -1
    hidden[5, 2:] = -1
    expected = torch.zeros(30, width, dtype=torch.bool)
    for token, row in enumerate(hidden):
        strongest = row.argsort(descending=True, stable=True)[:k]
        expected[token, strongest[row[strongest] > 0]] = True
    positions, values = selector(k, "topk", width).select(hidden)
    assert torch.equal(positions, expected.flatten().nonzero().squeeze(1))
    assert torch.equal(values, hidden.flatten()[positions])
