import json

import pytest
import torch
from accelerate import Accelerator

from training.emoji_world.loop import train


class Sum(torch.nn.Module):
    """A network that learns the sum of five numbers, and its loss."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))

    def forward(self, x):
        loss = (self.layers(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"error": loss.item()}


def _run(folder, steps, stop_at=None):
    torch.manual_seed(0)
    model = Sum()

    def make_batch(index):
        if index == stop_at:
            raise KeyboardInterrupt
        return (torch.randn(16, 5, generator=torch.Generator().manual_seed(index)),)

    settings = {"steps": steps, "learning_rate": 1e-2, "warmup": 5, "checkpoint_every": 20}
    train(model, make_batch, Accelerator(cpu=True), run=folder, **settings)
    return model.state_dict()


def test_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = _run(tmp_path / "whole", 100)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", 100, stop_at=57)
    resumed = _run(tmp_path / "parts", 100)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]
    assert not list(tmp_path.rglob("*.partial"))
