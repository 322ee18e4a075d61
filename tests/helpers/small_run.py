"""Trains a small SAE; a program of its own, so that tests can run it twice side by side, or kill it.

python small_run.py OUTPUT [--resume] [SETTING=VALUE ...]
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cbsae_hub.trainers.config import SAETrainConfig
from cbsae_hub.trainers.sae import Interrupted, SAETrainer

D_IN = 12
SETTINGS = {
    "d_sae": 48,
    "k": 3,
    "steps": 300,
    "batch_size": 100,
    "lr": 0.02,
    "warmup_steps": 10,
    "threshold_start": 20,
    "threshold_decay": 0.9,
    "dead_after_tokens": 2000,
    "log_every": 50,
    "eval_every": 100,
    "checkpoint_every": 100,
}


class MemoryActivations:
    """What training uses of an ``ActivationStore``."""

    def __init__(self, rows):
        self.rows = rows
        self.d_in = rows.shape[1]

    def __len__(self):
        return len(self.rows)

    def batches(self, batch_size, seed, epoch, start_batch=0, rank=0, world=1, dtype=torch.float32, drop_last=True):
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for start in range(start_batch * batch_size, len(order), batch_size):
            picked = order[start : start + batch_size]
            if len(picked) == batch_size or not drop_last:
                yield self.rows[picked][rank::world].to(dtype)


def sparse_combinations():
    """Off-centre sparse combinations of 16 directions in 12 dimensions: ``(train, heldout)``."""
    generator = torch.Generator().manual_seed(4)
    directions = torch.nn.functional.normalize(torch.randn(16, D_IN, generator=generator), dim=1)
    strengths = torch.rand(3000, 16, generator=generator) * (torch.rand(3000, 16, generator=generator) < 0.15)
    rows = 7 * strengths @ directions + 3 + 0.05 * torch.randn(3000, D_IN, generator=generator)
    return MemoryActivations(rows[:2500]), MemoryActivations(rows[2500:])


class SignalsItself(SAETrainer):
    """Gets the signal named by KILL_WITH after step KILL_AT; of several processes, only the last one does."""

    def _report(self, *args):
        last = self.processes.rank == self.processes.count - 1
        if last and self.state.step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.Signals[os.environ["KILL_WITH"]])
        super()._report(*args)


def train(output, resume=False, **settings):
    config = SAETrainConfig.from_dict(SETTINGS | settings)
    return SignalsItself(config, *sparse_combinations(), Path(output)).train(resume)


if __name__ == "__main__":
    try:
        for run in json.loads(sys.argv[1]):
            train(run["output"], run.get("resume", False), **run.get("settings", {}))
    except Interrupted:
        sys.exit(130)
