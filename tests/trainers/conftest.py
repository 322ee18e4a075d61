import json

import pytest
import small_run
import torch
from scripts import run_program

from cbsae_hub import SAE

D_IN, D_SAE, K = 12, 48, 4
GROUPS = (6, 12, 30)


@pytest.fixture
def make_sae():
    """Makes SAEs in double precision in which every parameter has its own random value."""

    def make(activation="batch_topk", groups=False):
        sae = SAE(D_IN, D_SAE, activation, K, GROUPS if groups else None, seed=0).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                if name not in ("W_dec", "threshold"):
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return sae

    return make


@pytest.fixture
def x():
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def run_training(tmp_path):
    """Runs small_run.py with these runs on ``processes`` gloo processes; returns their exit codes."""

    def start(*runs, processes=1, **environment):
        given = {"cwd": tmp_path, "processes": processes, "ACCELERATE_USE_CPU": "true", **environment}
        return run_program(small_run.__file__, json.dumps(runs, default=str), **given).returncodes

    return start
