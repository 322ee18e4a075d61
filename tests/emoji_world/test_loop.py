import json

import pytest
import torch
from accelerate import Accelerator

from training.emoji_world.loop import train


def _run(folder, steps, stop_at=None):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))

    def step_loss(prepared, step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
        loss = (prepared(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"error": loss.item()}

    train(
        model,
        step_loss,
        accelerator=Accelerator(cpu=True),
        run=folder,
        steps=steps,
        learning_rate=1e-2,
        warmup=5,
        checkpoint_every=20,
    )
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
