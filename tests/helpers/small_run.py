"""Trains a small SAE, or a bottleneck beside one; a program, so that tests can run it twice side by side, or kill it.

python small_run.py OUTPUT [--resume] [SETTING=VALUE ...]
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cbsae_hub import CBSAE, SAE
from cbsae_hub.trainers.cbsae.trainer import CBSAETrainer
from cbsae_hub.trainers.config import CBSAETrainConfig, SAETrainConfig
from cbsae_hub.trainers.loop import Interrupted
from cbsae_hub.trainers.sae.trainer import SAETrainer

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
    """What training uses of an ``ActivationStore`` with one row per image."""

    def __init__(self, rows, first=0, count=None):
        self.rows, self.first = rows, first
        self.d_in = rows.shape[1]
        self.num_images = len(rows)
        self.manifest = {"encoder": {}, "images": {"id": "memory"}, "num_images": count or len(rows)}

    def __len__(self):
        return len(self.rows)

    def batches(self, batch_size, seed, epoch, start_batch=0, rank=0, world=1, dtype=torch.float32, drop_last=True):
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for start in range(start_batch * batch_size, len(order), batch_size):
            picked = order[start : start + batch_size]
            if len(picked) == batch_size or not drop_last:
                yield self.rows[picked][rank::world].to(dtype)

    def labelled_batches(self, batch_size, seed, epoch, start_batch=0, rank=0, world=1):
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for start in range(start_batch * batch_size, len(order) - batch_size + 1, batch_size):
            picked = order[start : start + batch_size][rank::world]
            yield self.rows[picked], picked + self.first


def sparse_combinations():
    """Off-centre sparse combinations of 16 directions in 12 dimensions: ``(train, heldout)``."""
    generator = torch.Generator().manual_seed(4)
    directions = torch.nn.functional.normalize(torch.randn(16, D_IN, generator=generator), dim=1)
    strengths = torch.rand(3000, 16, generator=generator) * (torch.rand(3000, 16, generator=generator) < 0.15)
    rows = 7 * strengths @ directions + 3 + 0.05 * torch.randn(3000, D_IN, generator=generator)
    return MemoryActivations(rows[:2500], 0, 3000), MemoryActivations(rows[2500:], 2500, 3000), strengths


class SignalsItself:
    """Gets the signal named by KILL_WITH after step KILL_AT; of several processes, only the last one does."""

    def _report(self, *args):
        last = self.processes.rank == self.processes.count - 1
        if last and self.state.step == int(os.environ.get("KILL_AT", -1)):
            os.kill(os.getpid(), signal.Signals[os.environ["KILL_WITH"]])
        super()._report(*args)


class SmallSAE(SignalsItself, SAETrainer):
    pass


class SmallCBSAE(SignalsItself, CBSAETrainer):
    pass


def train(output, resume=False, **settings):
    config = SAETrainConfig.from_dict(SETTINGS | settings)
    train_data, heldout, _ = sparse_combinations()
    return SmallSAE(config, train_data, heldout, Path(output)).train(resume)


CONCEPTS = [f"direction {i}" for i in range(6)]
BOTTLENECK = {"steps": 300, "batch_size": 500, "lr": 0.02, "log_every": 50, "eval_every": 100, "checkpoint_every": 100}


def teacher():
    """Embeddings of 3,000 images and of the concepts, whose products are how strong each direction is."""
    _, _, strengths = sparse_combinations()
    return strengths, torch.eye(16)[: len(CONCEPTS)]


def untrained():
    """Half of an SAE that knows nothing, and a bottleneck for six of the directions."""
    sae = SAE(D_IN, 32, "topk", 2, seed=0).eval()
    sae.b_dec.data.fill_(3.0)
    return CBSAE.from_sae(sae, range(0, 32, 2), CONCEPTS, 3, seed=1)


def bottleneck(output, **settings):
    config = CBSAETrainConfig.from_dict(BOTTLENECK | settings)
    train_data, heldout, _ = sparse_combinations()
    return SmallCBSAE(config, untrained(), train_data, heldout, *teacher(), Path(output))


if __name__ == "__main__":
    try:
        for run in json.loads(sys.argv[1]):
            if run.get("bottleneck"):
                bottleneck(run["output"], **run.get("settings", {})).train(run.get("resume", False))
            else:
                train(run["output"], run.get("resume", False), **run.get("settings", {}))
    except Interrupted:
        sys.exit(130)
